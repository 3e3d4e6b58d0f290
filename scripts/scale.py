"""Memory that does not grow with the data set, and an output of 100,000 shards in which nothing is left to do.

    python3 scripts/scale.py memory [--part 1] [--arenas N]   2,000 shards of 5 samples and 1 shard of 200,000, also a quarter of
                                                              each; glibc's malloc keeps N arenas (its own default: 8 a core)
    python3 scripts/scale.py nothing [--shards 100000]  `recaption run` over a folder whose shards are all committed
    python3 scripts/scale.py nothing-s3 [--shards 10000]   the same over moto_server, most of whose time is moto's
    python3 scripts/scale.py nothing-listed [--shards 100000] [--latency 0.1]   over a server that lists 1,000 keys a page and
                                                            takes that many seconds for each; the first run reads all records
    python3 scripts/scale.py pending [--shards 1000000] [--latency 0.1]   `recaption plan --shards` over the same, nothing done

`memory` prints the peak of the program's resident memory (VmHWM) and its throughput; images are embedded. `nothing` makes
inputs, parts and commit records as the program would have left them, from one shard that it did itself, and prints the time of
a run that finds nothing to do, with what it is spent on (`strace -c` and `perf` where they are installed: --profile).
"""
import argparse, bisect, concurrent.futures, hashlib, html, http.server, json, math, os, pathlib, re, shutil, subprocess, sys, tempfile, threading
import time, urllib.parse

import soak

# Scenes that are really drawn; larger shards repeat them under other keys.
DRAWN = 2_000
# A file has at most 65,000 names on ext4.
NAMES_PER_FILE = 50_000
POLL_SECONDS = 0.05
# Keys on a page of S3's listings.
PAGE = 1_000


def measure(call: list[str], env: dict[str, str], parse=json.loads) -> tuple:
    """Runs the program; its report, seconds, and peak memory in bytes."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(call, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        peak = 0
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
            except (OSError, TypeError):
                pass
            time.sleep(POLL_SECONDS)
        took = time.monotonic() - began
        out.seek(0), err.seek(0)
        if process.returncode:
            sys.exit(f"exit code {process.returncode}: {err.read().decode()[-3000:]}")
        return parse(out.read()), took, peak * 1024


def repeated(drawn: bytes, samples: int, path: pathlib.Path) -> None:
    """A shard of `samples`: the drawn one again and again, with another beginning of the keys each time."""
    members, at, count = [], 0, 0
    while at < len(drawn) and drawn[at]:
        size = int(drawn[at + 124:at + 135], 8)
        whole = 512 + -(-size // 512) * 512
        members.append(bytearray(drawn[at:at + whole]))
        at += whole
    per = len({bytes(m[:100]).split(b".")[0] for m in members})
    with path.open("wb") as file:
        for turn in range(-(-samples // per)):
            keys = set()
            for member in members:
                key = bytes(member[:100]).split(b".")[0]
                keys.add(key)
                if turn * per + len(keys) > samples:
                    break
                member[:5] = f"{turn:05}".encode()
                member[148:156] = b" " * 8
                member[148:156] = f"{sum(member[:512]):06o}\0 ".encode()
                file.write(member)
        file.write(bytes(1024))


def memory(options) -> None:
    with tempfile.TemporaryDirectory(dir=soak.MODEL.parent) as scratch:
        root = pathlib.Path(scratch)
        drawn = (soak.draw(root / "drawn", 1, DRAWN) / "00000.tar").read_bytes()
        env = soak.environment(**({"MALLOC_ARENA_MAX": str(options.arenas)} if options.arenas else {}))
        print(f"{'shards':>8} {'samples':>8} {'peak MiB':>9} {'images/s':>9} {'seconds':>8}")
        for shards, samples in ((500, 5), (2_000, 5), (1, 50_000), (1, 200_000)):
            shards, samples = (shards // options.part, samples) if shards > 1 else (shards, samples // options.part)
            folder = root / "in"
            if shards > 1:
                soak.draw(folder, shards, samples)
            else:
                folder.mkdir()
                repeated(drawn, samples, folder / "00000.tar")
            report, took, peak = measure(
                soak.command(f"{folder}/", f"{root}/out", "--set", "output.images=embed"), env)
            read = report["counts"]["captioned"]
            assert read == shards * samples, f"{read} of {shards * samples}"
            print(f"{shards:>8} {shards * samples:>8} {peak / 2**20:>9.0f} {read / report['seconds']:>9.0f} {took:>8.1f}", flush=True)
            shutil.rmtree(folder), shutil.rmtree(root / "out")


def hexdigest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def fabricate(base: str, count: int, tar: bytes, template: dict, configuration: str, put, put_part) -> None:
    """Inputs, parts and commit records of `count` shards.

    Names and fingerprints are those of `ShardId::from_url` (schemas/src/shard.rs), `ShardRef::fingerprint`
    (stages/input/src/shards) and `RecordName` (stages/output/src/commits).
    """
    def one(n: int) -> None:
        url = f"{base}/in/{n:06}.tar"
        etag = put(f"in/{n:06}.tar", tar)
        shard = f"{n:06}-{hexdigest(url)[:16]}"
        fingerprint = f"{hexdigest(chr(10).join((url, str(len(tar)), etag)))[:16]}-{configuration}"
        record = template | {"shard": url, "size": len(tar), "etag": etag, "fingerprint": fingerprint}
        for table in ("captions", "rejects"):
            digest = hexdigest(f"{template[table]['sha256']} {fingerprint}")[:16]
            record[table] = template[table] | {"path": f"{table}/part-{shard}-{digest}.parquet"}
            put_part(f"out/{record[table]['path']}", table, n, template[table]["bytes"])
        put(f"out/_recaption/shards/{shard}.{fingerprint}.json", (json.dumps(record, indent=2) + "\n").encode())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in pool.map(one, range(count), chunksize=64):
            del done


def template(store, tar: bytes) -> tuple[dict, str, dict[str, bytes]]:
    """One shard that the program did itself: its commit record, the configuration's fingerprint, its parts."""
    store.put("one/in/000000.tar", tar)
    call = soak.command(f"{store.base}/one/in/", f"{store.base}/one/out")
    subprocess.run(call, check=True, env=store.environment, capture_output=True)
    [record] = soak.records(store, "one/out")
    commit = json.loads(store.get(record))
    parts = {table: store.get(f"one/out/{commit[table]['path']}") for table in ("captions", "rejects")}
    return commit, record.removesuffix(".json").rsplit("-", 1)[1], parts


def nothing(options) -> None:
    with tempfile.TemporaryDirectory(dir=soak.MODEL.parent) as scratch:
        store = soak.Folder(pathlib.Path(scratch))
        tar = (soak.draw(store.root / "drawn", 1, 1) / "00000.tar").read_bytes()
        commit, configuration, parts = template(store, tar)

        for folder in ("in", "out/_recaption/shards", "out/captions", "out/rejects"):
            (store.root / folder).mkdir(parents=True)

        def put(key: str, body: bytes) -> str:
            path = store.root / key
            path.write_bytes(body)
            stat = path.stat()
            return f'"{stat.st_ino:x}-{stat.st_mtime_ns // 1000:x}-{stat.st_size:x}"'

        def put_part(key: str, table: str, n: int, _: int) -> None:
            # Parts are not read: names and sizes are enough.
            source = store.root / f"part-{table}-{n // NAMES_PER_FILE}"
            if not source.exists():
                source.write_bytes(parts[table])
            os.link(source, store.root / key)

        began = time.monotonic()
        fabricate(f"file://{scratch}", options.shards, tar, commit, configuration, put, put_part)
        print(f"{options.shards} shards made in {time.monotonic() - began:.0f} s", flush=True)
        finds_nothing(store, options)


def nothing_s3(options) -> None:
    with soak.moto() as moto, tempfile.TemporaryDirectory() as scratch:
        store = soak.S3(moto.port)
        tar = (soak.draw(pathlib.Path(scratch), 1, 1) / "00000.tar").read_bytes()
        commit, configuration, parts = template(store, tar)

        def put(key: str, body: bytes) -> str:
            store.put(key, body)
            return f'"{hashlib.md5(body).hexdigest()}"'

        began = time.monotonic()
        fabricate(store.base, options.shards, tar, commit, configuration, put,
                  lambda key, table, n, _: store.put(key, parts[table]))
        print(f"{options.shards} shards made in {time.monotonic() - began:.0f} s", flush=True)
        finds_nothing(store, options)


class Lister(http.server.BaseHTTPRequestHandler):
    """S3 as far as a run needs it that finds nothing to do: listings, records, and what the run puts."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    keys: list[tuple[str, int, str]]
    # Content of some keys, beside what was put.
    bodies: dict[str, bytes] = {}
    latency: float
    pages = 0

    def do_GET(self) -> None:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        if "list-type" not in query:
            body = self.bodies.get(self.key())
            return self.answer(404) if body is None else self.answer(200, body)
        time.sleep(self.latency)
        Lister.pages += 1
        prefix = query.get("prefix", "")
        after = query.get("continuation-token") or max(prefix, query.get("start-after", ""))
        begin = bisect.bisect_right(self.keys, (after, sys.maxsize))
        page = [k for k in self.keys[begin:begin + PAGE] if k[0].startswith(prefix)]
        body = "".join(f"<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2023-10-19T12:00:00.000Z</LastModified>"
                       f"<ETag>{etag}</ETag></Contents>" for key, size, etag in page)
        if len(page) == PAGE:
            body += f"<NextContinuationToken>{page[-1][0]}</NextContinuationToken>"
        self.answer(200, f"<ListBucketResult>{body}</ListBucketResult>".encode())

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.bodies[self.key()] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200)

    def do_DELETE(self) -> None:
        self.bodies.pop(self.key(), None)
        self.answer(204)

    def do_POST(self) -> None:
        # Deletes of many.
        keys = re.findall(rb"<Key>(.*?)</Key>", self.rfile.read(int(self.headers["Content-Length"])))
        for key in keys:
            self.bodies.pop(html.unescape(key.decode()), None)
        deleted = b"".join(b"<Deleted><Key>" + key + b"</Key></Deleted>" for key in keys)
        self.answer(200, b"<DeleteResult>" + deleted + b"</DeleteResult>")

    def key(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).split("/", 2)[2]

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 19 Oct 2023 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")
        self.wfile.flush()

    def log_message(self, *_) -> None:
        pass


def nothing_listed(options) -> tuple[float, int, int]:
    """Seconds and peak bytes of the fastest run, and the pages of the last one."""
    with tempfile.TemporaryDirectory(dir=soak.MODEL.parent) as scratch:
        folder = soak.Folder(pathlib.Path(scratch))
        tar = (soak.draw(folder.root / "drawn", 1, 1) / "00000.tar").read_bytes()
        commit, configuration, _ = template(folder, tar)
    keys, etag = {}, f'"{hashlib.md5(tar).hexdigest()}"'

    def put(key: str, body: bytes) -> str:
        keys[key] = (key, len(body), etag)
        if key.endswith(".json"):
            Lister.bodies[key] = body
        return etag

    def put_part(key: str, table: str, n: int, size: int) -> None:
        keys[key] = (key, size, etag)

    Lister.bodies = {}
    fabricate(f"s3://{soak.BUCKET}", options.shards, tar, commit, configuration, put, put_part)
    Lister.keys, Lister.latency = sorted(keys.values()), options.latency
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lister) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = finds_nothing(soak.S3(server.server_port, make=False), options)
        server.shutdown()
    return *found, Lister.pages


def pending(options) -> tuple[float, int, int]:
    """Seconds and peak bytes of a plan in which no shard is done, and its pages."""
    name = "datasets/images-of-the-web/2026/shard-{n:07}.tar"
    Lister.bodies = {}
    Lister.keys = [(name.format(n=n), 300_000_000, f'"{n:032x}"') for n in range(options.shards)]
    Lister.latency, Lister.pages = options.latency, 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lister) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = soak.S3(server.server_port, make=False)
        call = [str(soak.PROGRAM), "plan", "--shards", "--model", str(soak.MODEL), "--input", f"{store.base}/datasets/images-of-the-web/2026/",
                "--output", f"{store.base}/out"]
        lines, took, peak = measure(call, store.environment, lambda text: text.count(b"\n"))
        server.shutdown()
    assert lines == options.shards, lines
    print(f"{lines} shards planned after {took:.2f} s, peak {peak / 2**20:.0f} MiB, {Lister.pages} pages", flush=True)
    return took, peak, Lister.pages


def finds_nothing(store, options) -> tuple[float, int]:
    """Seconds and peak bytes of the fastest of three runs."""
    call = soak.command(f"{store.base}/in/", f"{store.base}/out")
    best = (math.inf, 0)
    for attempt in range(3):
        Lister.pages = 0
        report, took, peak = measure(call, store.environment)
        best = min(best, (took, peak))
        assert report["shards_skipped"] == options.shards and report["shards_done"] == 0, report
        print(f"run {attempt + 1}: nothing to do after {took:.2f} s, peak {peak / 2**20:.0f} MiB", flush=True)
    if options.profile:
        for tool in (["strace", "-f", "-c", "-w"], ["perf", "record", "-q", "-g", "-o", str(soak.MODEL.parent / "perf.data")]):
            if shutil.which(tool[0]):
                done = subprocess.run([*tool, *call], env=store.environment, capture_output=True, text=True)
                print("\n".join(done.stderr.splitlines()[:14]) if tool[0] == "strace" else f"perf: {tool[-1]}")
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["memory", "nothing", "nothing-s3", "nothing-listed", "pending"])
    parser.add_argument("--part", type=int, default=1, help="of `memory`: that much less of everything")
    parser.add_argument("--arenas", type=int, help="of `memory`: MALLOC_ARENA_MAX of the program")
    parser.add_argument("--shards", type=int)
    parser.add_argument("--latency", type=float, default=0.1, help="of `nothing-listed`: seconds for a page")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    options.shards = options.shards or {"nothing-s3": 10_000, "pending": 1_000_000}.get(options.what, 100_000)
    soak.in_venv()
    {"memory": memory, "nothing": nothing, "nothing-s3": nothing_s3, "nothing-listed": nothing_listed, "pending": pending}[options.what](options)


if __name__ == "__main__":
    main()
