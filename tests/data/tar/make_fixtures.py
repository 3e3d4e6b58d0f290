#!/usr/bin/env python3
"""Writes the tar fixtures beside this file, and what Python's tarfile reads in them.

    python3 tests/data/tar/make_fixtures.py

Needs Python 3.8 or newer and nothing else. For each NAME.tar a NAME.tsv lists the members as
tarfile sees them in the stream mode `r|*` that webdataset uses: where its first header starts, where
its data ends, kind, SHA-256 of the data, link target, name; tab-separated, names decoded with U+FFFD
for what is not UTF-8.
names.tsv holds names and webdataset's key and suffix for them. Times are fixed, so a second run
writes the same bytes.
"""

import hashlib
import io
import re
import struct
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIME = 1_700_000_000
BLOCK = 512


def data(size):
    """Bytes that are not all alike."""
    return bytes((i * 7 + i // 251) % 256 for i in range(size))


def member(name, size=0, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mtime, info.mode = size, kind, link, TIME, 0o644
    return info


def archive(format, members, **kw):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, errors="surrogateescape", **kw) as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(data(info.size)) if info.isreg() else None)
    # Two zero blocks end an archive; the padding to 10 KB that follows is left out.
    raw = out.getvalue().rstrip(b"\0")
    return raw + b"\0" * (-len(raw) % BLOCK + 2 * BLOCK)


def header(name, size_field, type_flag=b"0", magic=b"ustar\x0000", at={}, signed=False):
    """A header made by hand; `at` puts bytes at offsets."""
    block = bytearray(BLOCK)
    fields = {0: name, 100: b"0000644\0", 108: b"0000000\0", 116: b"0000000\0", 124: size_field,
              136: b"14524560400\0", 148: b" " * 8, 156: type_flag, 257: magic, **at}
    for offset, field in fields.items():
        block[offset:offset + len(field)] = field
    total = sum(struct.unpack(f"{BLOCK}b" if signed else f"{BLOCK}B", block))
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(raw):
    return raw + b"\0" * (-len(raw) % BLOCK)


def octal(size):
    return b"%011o\0" % size


def pax(records, type_flag=b"x"):
    body = b""
    for keyword, value in records:
        rest = b" " + keyword + b"=" + value + b"\n"
        length = len(rest)
        while len(b"%d" % length) + len(rest) != length:
            length = len(b"%d" % length) + len(rest)
        body += b"%d" % length + rest
    return header(b"././@PaxHeader", octal(len(body)), type_flag) + padded(body)


END = b"\0" * (2 * BLOCK)
LONG = "images/" + "a-long-directory-name/" * 12 + "000170042.jpg"
fixtures = {}

fixtures["ustar_prefix"] = archive(tarfile.USTAR_FORMAT, [
    member("d/" * 60 + "000.jpg", 700), member("d/" * 60 + "000.txt", 12), member("short.jpg", 0)])
fixtures["gnu_long"] = archive(tarfile.GNU_FORMAT, [
    member(LONG, 700), member("link.jpg", kind=tarfile.SYMTYPE, link=LONG), member("after.jpg", 513)])
fixtures["pax_long"] = archive(tarfile.PAX_FORMAT, [
    member(LONG, 700), member("link.jpg", kind=tarfile.SYMTYPE, link=LONG),
    member("größe-写真.jpg", 3), member("after.jpg", 513)])
fixtures["pax_global"] = archive(tarfile.PAX_FORMAT, [member("000.jpg", 5), member(LONG, 6)],
                                 pax_headers={"comment": "every member"})
fixtures["not_utf8"] = archive(tarfile.GNU_FORMAT, [
    member(b"caf\xe9/000.jpg".decode("utf-8", "surrogateescape"), 5),
    member(b"\xff\xfe\xe2\x82.jpg".decode("utf-8", "surrogateescape"), 6)])
fixtures["kinds"] = archive(tarfile.PAX_FORMAT, [
    member("dir/", kind=tarfile.DIRTYPE), member("dir/000.jpg", 1024), member("dir/000.txt", 0),
    member("dir/hard.jpg", kind=tarfile.LNKTYPE, link="dir/000.jpg"),
    member("dir/soft.jpg", kind=tarfile.SYMTYPE, link="000.jpg"),
    member("fifo", kind=tarfile.FIFOTYPE), member("device", kind=tarfile.CHRTYPE),
    member("cont.jpg", 9, kind=tarfile.CONTTYPE), member("../../etc/passwd", 11)])

fixtures["v7"] = (
    header(b"old/", octal(0), b"\0", b"") + header(b"old/000.jpg", octal(600), b"\0", b"") + padded(data(600))
    + header(b"old/001.jpg", b"      1130 \0", b"\0", b"") + padded(data(600)) + END)
fixtures["base_256"] = (
    header(b"000.jpg", b"\x80" + (700).to_bytes(11, "big"), b"0", b"ustar  \0") + padded(data(700))
    + header(b"001.jpg", octal(3)) + padded(data(3)) + END)
fixtures["signed_sum"] = header(b"caf\xe9.jpg", octal(4), signed=True) + padded(data(4)) + END
fixtures["pax_size"] = (
    pax([(b"path", b"real.jpg"), (b"size", b"900"), (b"mtime", b"1.5"), (b"SCHILY.xattr.a", b"x=y\nz")])
    + header(b"short.jpg", octal(0)) + padded(data(900)) + header(b"001.jpg", octal(3)) + padded(data(3)) + END)
fixtures["hard_link_size"] = (
    header(b"000.jpg", octal(3)) + padded(data(3)) + header(b"link.jpg", octal(3), b"1", at={157: b"000.jpg"})
    + header(b"002.jpg", octal(4)) + padded(data(4)) + END)
fixtures["unknown_type"] = (
    header(b"volume", octal(700), b"Z") + padded(data(700)) + header(b"001.jpg", octal(3)) + padded(data(3)) + END)
# A sparse file as GNU tar writes it in its own format: four entries in the header, one block of more.
entries = [octal(i * 4096) + octal(BLOCK) for i in range(5)]
fixtures["sparse_gnu"] = (
    header(b"sparse.jpg", octal(5 * BLOCK), b"S", b"ustar  \0",
           at={386: b"".join(entries[:4]), 482: b"\1", 483: octal(5 * 4096)})
    + padded(entries[4]) + data(5 * BLOCK) + header(b"001.jpg", octal(3)) + padded(data(3)) + END)
fixtures["sparse_pax"] = (
    pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"sparse.jpg"),
         (b"GNU.sparse.realsize", b"4096")])
    + header(b"GNUSparseFile.1/sparse.jpg", octal(2 * BLOCK)) + padded(b"1\n0\n512\n") + data(BLOCK)
    + header(b"001.jpg", octal(3)) + padded(data(3)) + END)
fixtures["one_zero_block"] = header(b"000.jpg", octal(3)) + padded(data(3)) + b"\0" * BLOCK
fixtures["concatenated"] = fixtures["one_zero_block"] + fixtures["signed_sum"]
fixtures["zeros"] = b"\0" * (4 * BLOCK)


def kind_of(info):
    if info.sparse is not None:
        return "sparse"
    for kind, holds in [("file", info.isreg()), ("directory", info.isdir()), ("hard", info.islnk()), ("soft", info.issym())]:
        if holds:
            return kind
    return "other"


def text(name):
    # As schemas/src/name.rs writes bytes that are not UTF-8; none of these names holds a backslash.
    return "".join(f"\\x{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def listing(raw):
    rows = []
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r|*", errors="surrogateescape") as tar:
        for info in tar:
            kind, size, digest, link = kind_of(info), 0, "-", "-"
            if kind == "file":
                body = tar.extractfile(info).read()
                size, digest = len(body), hashlib.sha256(body).hexdigest()
            if kind == "sparse":
                size = sum(stored for _, stored in info.sparse)
            if kind == "other":
                size = info.size
            if kind in ("hard", "soft"):
                link = text(info.linkname)
            end = info.offset_data + size
            rows.append(f"{info.offset}\t{end}\t{kind}\t{digest}\t{link}\t{text(info.name)}\n")
    return "".join(rows)


# webdataset 0.2 and 1.0, tariterators.py: tar_file_iterator's skip_meta and base_plus_ext.
SKIP_META = r"__[^/]*__($|/)"
BASE_PLUS_EXT = r"^((?:.*/|)[^.]+)[.]([^/]*)$"
NAMES = """000.jpg a/b/000.jpg a.b/c.d/000.JPG 000.seg.PNG 000. a.b/000.x. ./000.jpg ../../x.jpg
README a/README a.b/README ../../etc/passwd a/ a.b/ . .. a/. a/.. ._000.jpg .hidden a/._000.jpg a/b/.hidden.jpg
__meta__ __meta__/x.jpg __meta__x/y.jpg __meta__.json a/__meta__/x.jpg ____ ___ __ __a__/__b__.jpg __a/b__/c.jpg
a//b.jpg /abs/x.jpg ÄÖ.JPÉG 写真.jpg ẞ.TXTẞ x.İ ..x.jpg a/..x.jpg 1.2.3.4 a_b-c+d@e.tar.gz""".split()


def name_rows():
    for name in NAMES:
        match = re.match(BASE_PLUS_EXT, name)
        if re.match(SKIP_META, name):
            yield f"{name}\tmeta\t-\t-\n"
        elif match is None:
            yield f"{name}\tnone\t-\t-\n"
        else:
            yield f"{name}\tpart\t{match.group(1)}\t{match.group(2).lower()}\n"


for name, raw in fixtures.items():
    (HERE / f"{name}.tar").write_bytes(raw)
    (HERE / f"{name}.tsv").write_text(listing(raw), encoding="utf-8")
(HERE / "names.tsv").write_text("".join(name_rows()), encoding="utf-8")
