"""What the long tests of storage share (fault_soak.py, kill_soak.py, scale.py): the program and its model, servers on this
machine, a small S3 client, and outputs read back with pyarrow.

Servers come from target/test-services (scripts/test_services.py), pyarrow from target/soak-venv, which `in_venv` makes at
the first call. Everything is started on a free port of 127.0.0.1 and ended by its process id.
"""
import http.client, json, os, pathlib, re, socket, subprocess, sys, tempfile, time, urllib.parse, venv
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
SERVICES = TARGET / "test-services" / "python" / "bin"
VENV = TARGET / "soak-venv"
PYARROW = "pyarrow==26.0.1"
PROGRAM = TARGET / "release" / "recaption"
MODEL = TARGET / "soak" / "model"
BUCKET = "shards"
PATIENCE_SECONDS = 90
# moto looks at no signature, but shows nothing to those who have none.
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=tests/20231019/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}


def in_venv() -> None:
    """Continues in the virtual environment that has pyarrow, after making it; installs what else is needed."""
    if pathlib.Path(sys.prefix) != VENV:
        if not (VENV / "ready").exists():
            venv.create(VENV, with_pip=True, clear=True)
            subprocess.run([VENV / "bin" / "pip", "install", "--quiet", PYARROW], check=True)
            (VENV / "ready").touch()
        os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])
    subprocess.run([sys.executable, ROOT / "scripts" / "test_services.py"], check=True)
    subprocess.run(["cargo", "build", "--locked", "--release", "--quiet", "--bin", "recaption"], cwd=ROOT, check=True)
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([PROGRAM, "export", "--checkpoint", ROOT / "onnx/models/coca-scenes-base", "--out", MODEL],
                   check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def environment(**more: str) -> dict[str, str]:
    """Without what a developer set for runs of his own; with ONNX Runtime."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RECAPTION_", "AWS_", "AZURE_", "GOOGLE_"))}
    env.setdefault("ORT_DYLIB_PATH", str(TARGET / "onnxruntime/lib/libonnxruntime.so"))
    return env | more


def s3_environment(port: int) -> dict[str, str]:
    return environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_ACCESS_KEY_ID="tests", AWS_SECRET_ACCESS_KEY="tests",
                       AWS_REGION="us-east-1", AWS_ALLOW_HTTP="true")


def command(inputs: str, output: str, *more: str) -> list[str]:
    return [str(PROGRAM), "run", "--model", str(MODEL), "--input", inputs, "--output", output, "--log-format", "json", *more]


def draw(folder: pathlib.Path, shards: int, samples: int) -> pathlib.Path:
    subprocess.run([PROGRAM, "scenes", "--out", folder, "--shards", str(shards), "--samples", str(samples)],
                   check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


class Server:
    """A server of others, as long as the `with` block."""

    def __init__(self, name: str, *arguments: str, **env: str) -> None:
        self.name, self.arguments, self.env = name, arguments, env

    def __enter__(self) -> "Server":
        self.folder = tempfile.TemporaryDirectory()
        for _ in range(5):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            arguments = [a.format(port=self.port, folder=self.folder.name) for a in self.arguments]
            with open(self.path("log.txt"), "w") as log:
                self.process = subprocess.Popen([SERVICES / self.name, *arguments], stdin=subprocess.DEVNULL, stdout=log,
                                                stderr=log, cwd=self.folder.name, env=os.environ | self.env)
            if self.comes_up():
                return self
        raise SystemExit(f"{self.name} does not come up:\n{self.path('log.txt').read_text()}")

    def comes_up(self) -> bool:
        end = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            try:
                ask(self.port, "GET", "/")
                return self.process.poll() is None
            except OSError:
                time.sleep(0.05)
        self.end()
        return False

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_) -> None:
        self.end()
        self.folder.cleanup()

    def path(self, name: str) -> pathlib.Path:
        return pathlib.Path(self.folder.name) / name


def moto() -> Server:
    return Server("moto_server", "-H", "127.0.0.1", "-p", "{port}")


def faults(target: int, **settings: str) -> Server:
    """mitmproxy with tests/support/faults.py; its journal is `path("journal.jsonl")`."""
    journal = tempfile.NamedTemporaryFile(delete=False, suffix=".jsonl").name
    server = Server("mitmdump", "--quiet", "--mode", f"reverse:http://127.0.0.1:{target}", "--listen-host", "127.0.0.1",
                    "--listen-port", "{port}", "--set", "keep_host_header=true", "--set", "connection_strategy=lazy",
                    "--set", "confdir={folder}/mitmproxy", "--scripts", str(ROOT / "tests/support/faults.py"),
                    FAULTS_JOURNAL=journal, **settings)
    server.journal = pathlib.Path(journal)
    return server


def mistakes(journal: pathlib.Path) -> tuple[int, dict[str, int]]:
    """How many requests there were, and the mistakes by kind."""
    requests, kinds = 0, {}
    for line in journal.read_text().splitlines():
        line = json.loads(line)
        requests += line.get("request", False)
        if kind := line.get("fault"):
            kinds[kind] = kinds.get(kind, 0) + 1
    return requests, kinds


def ask(port: int, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, target, body, SIGNED)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class S3:
    """The bucket of a server that looks at no signature."""

    def __init__(self, port: int, make: bool = True) -> None:
        self.port, self.base = port, f"s3://{BUCKET}"
        self.environment = s3_environment(port)
        if make:
            self.ask("PUT", "")

    def ask(self, method: str, target: str, body: bytes | None = None) -> bytes:
        status, answer = ask(self.port, method, f"/{BUCKET}{target}", body)
        if status >= 300:
            raise OSError(f"{method} {target}: {status} {answer[:200]!r}")
        return answer

    def put(self, key: str, body: bytes) -> None:
        self.ask("PUT", "/" + urllib.parse.quote(key), body)

    def get(self, key: str) -> bytes:
        return self.ask("GET", "/" + urllib.parse.quote(key))

    def list(self, prefix: str) -> list[str]:
        keys, token = [], ""
        while True:
            query = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
            page = re.sub(rb' xmlns="[^"]*"', b"", self.ask("GET", "?" + urllib.parse.urlencode(query)))
            tree = ElementTree.fromstring(page)
            keys += [key.text for key in tree.iterfind("Contents/Key")]
            token = tree.findtext("NextContinuationToken") or ""
            if not token:
                return keys


class Folder:
    """The same over a folder."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self.base, self.environment = root, str(root), environment()

    def put(self, key: str, body: bytes) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(body)

    def get(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def list(self, prefix: str) -> list[str]:
        return sorted(str(p.relative_to(self.root)) for p in (self.root / prefix).rglob("*") if p.is_file())


def records(store, output: str) -> list[str]:
    return [key for key in store.list(f"{output}/_recaption/shards") if key.endswith(".json")]


def rows(store, output: str) -> dict:
    """What the commit records vouch for: by shard's file name, both tables without their `shard` column.

    Fails on two records of a shard, on a part whose rows are not those of its record, and on a key that is there twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = {}
    for key in records(store, output):
        commit = json.loads(store.get(key))
        name = commit["shard"].rsplit("/", 1)[1]
        assert name not in found, f"{output}: two records of {name}"
        tables = []
        for table in ("captions", "rejects"):
            part = commit[table]
            read = pq.read_table(pa.BufferReader(store.get(f"{output}/{part['path']}")))
            assert read.num_rows == part["rows"], f"{part['path']}: {read.num_rows} rows, the record says {part['rows']}"
            assert set(read["shard"].to_pylist()) <= {commit["shard"]}, part["path"]
            tables.append(read.drop_columns("shard").replace_schema_metadata(None))
        keys = [k for table in tables for k in table["key"].to_pylist()]
        assert len(keys) == len(set(keys)), f"{output}: {name} has keys twice"
        found[name] = tables
    return found


def compare(wanted: dict, found: dict, what: str) -> int:
    """All rows are equal in all columns; returns how many they are."""
    assert wanted.keys() == found.keys(), f"{what}: shards differ: {sorted(wanted.keys() ^ found.keys())[:5]}"
    total = 0
    for name, tables in wanted.items():
        for one, other in zip(tables, found[name]):
            assert one.equals(other), f"{what}: {name} differs"
            total += one.num_rows
    return total
