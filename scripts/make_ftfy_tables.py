"""Writes onnx/src/clean/tables.rs: the character tables of ftfy 6.3.1, as Rust.

    pip install ftfy==6.3.1
    python scripts/make_ftfy_tables.py > onnx/src/clean/tables.rs

ftfy is Robyn Speer's (Apache-2.0). Its detectors are regular expressions over hand-picked characters; they are taken
over as they are, in a notation that both the Rust compiler and the regex crate read.
"""
import re, unicodedata
import ftfy
from ftfy import badness, chardata

CODECS = chardata.CHARMAP_ENCODINGS + ["windows-1252"]


def escaped(text):
    """For a Rust string literal, and for a regular expression in a raw one: what is not ASCII becomes \\u{..}."""
    return "".join(c if " " <= c <= "~" and c not in '\\"' else f"\\u{{{ord(c):x}}}" for c in text)


def plain(pattern):
    """A verbose Python pattern without its white space and comments, which count inside of [] alone."""
    out, inside, comment = [], False, False
    for c in pattern:
        if comment:
            comment = c != "\n"
        elif not inside and c in " \n":
            pass
        elif not inside and c == "#":
            comment = True
        else:
            inside = c == "[" or inside and c != "]"
            out.append(c)
    # Python's classes: \s has the separators U+001C to U+001F, \w has numbers of all kinds and no marks.
    text = "".join(out).replace(r"\s", r"[\s\x1c-\x1f]").replace(r"\w", r"[\p{L}\p{N}_]").replace(r"\xad", "\xad").replace(r"\xa0", "\xa0")
    return "".join(c if ord(c) < 127 else f"\\u{{{ord(c):x}}}" for c in text)


def wrapped(text, width=100):
    """A long literal over several lines, never cut inside of an escape."""
    pieces = re.findall(r"\\u\{[0-9a-f]+\}|.", text)
    line, lines = "", []
    for piece in pieces:
        if len(line) + len(piece) > width:
            lines.append(line)
            line = ""
        line += piece
    return "\\\n     ".join(lines + [line]) if lines else line


def members(clue):
    """The characters of a class such as `a-cx`."""
    out, i = [], 0
    while i < len(clue):
        if i + 2 < len(clue) and clue[i + 1] == "-":
            out += map(chr, range(ord(clue[i]), ord(clue[i + 2]) + 1))
            i += 3
        else:
            out.append(clue[i])
            i += 1
    return "".join(sorted(set(out)))


def codec(name):
    """What the bytes 0x80 to 0xff mean; U+FFFD where they mean nothing."""
    return bytes(range(0x80, 0x100)).decode(name, errors="replace")


print(f'''//! The character tables of ftfy {ftfy.__version__} (Robyn Speer, Apache-2.0), made by `scripts/make_ftfy_tables.py`.

/// What hardly ever stands side by side in text that was decoded rightly (`badness.BADNESS_RE`), for the regex crate.
pub(super) const BADNESS: &str = concat!(''')
alternatives = plain(badness.BADNESS_RE.pattern)
for part in re.split(r"(?<=\|)(?![^\[]*\])", alternatives):
    print(f'    r"{part}",')
print(");")
for name, what in [("utf8_first_of_2", "begin two bytes"), ("utf8_first_of_3", "begin three bytes"), ("utf8_first_of_4", "begin four bytes"),
                   ("utf8_continuation", "continue, or are a space in the place of U+00A0"),
                   ("utf8_continuation_strict", "continue, and hardly stand for themselves")]:
    print(f"\n/// Characters whose bytes, in encodings like Latin-1, {what} of UTF-8; sorted.")
    print(f'pub(super) const {name.upper()}: &str = "{wrapped(escaped(members(chardata.UTF8_CLUES[name])))}";')
print("\n/// Encodings by ftfy's names, in the order they are tried, and what their bytes 0x80 to 0xff mean.")
print(f"pub(super) const ENCODINGS: [(&str, &str); {len(chardata.CHARMAP_ENCODINGS)}] = [")
for name in chardata.CHARMAP_ENCODINGS:
    print(f'    (\n        "{name}",\n        "{wrapped(escaped(codec(name)))}",\n    ),')
print("];")
print("\n/// Windows-1252's bytes 0x80 to 0xff; U+FFFD where it has none.")
print(f'pub(super) const WINDOWS_1252: &str = "{wrapped(escaped(codec("windows-1252")))}";')
print("\n/// Ligatures of Latin letters, and the letters.")
print(f"pub(super) const LIGATURES: [(char, &str); {len(chardata.LIGATURES)}] = [")
for code, letters in sorted(chardata.LIGATURES.items()):
    print(f"    ('\\u{{{code:x}}}', \"{escaped(letters)}\"),")
print("];")
wide = sorted(chardata.WIDTH_MAP.items())
assert all(unicodedata.is_normalized("NFC", c) for _, c in wide)
print("\n/// Full-width and half-width forms, and the characters of usual width; sorted.")
print(f"pub(super) const WIDTHS: [(char, &str); {len(wide)}] = [")
for code, char in wide:
    print(f"    ('\\u{{{code:x}}}', \"{escaped(char)}\"),")
print("];")
