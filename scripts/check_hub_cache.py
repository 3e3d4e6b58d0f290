"""Shows that recaption and huggingface_hub share one cache, in both directions, over a hub on this machine.

    pip install huggingface_hub
    python scripts/check_hub_cache.py [--recaption target/release/recaption]

recaption pulls a model, and huggingface_hub finds its files offline; huggingface_hub downloads the model into another cache,
and recaption exports from it offline. Exit status 1 when a file differs or is not found.
"""
import argparse, hashlib, http.server, os, pathlib, subprocess, sys, tempfile, threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests/data/coca/odd"
FILES = ["open_clip_config.json", "open_clip_model.safetensors"]
COMMIT = hashlib.sha1(b"commit").hexdigest()
FIND = """
import sys, huggingface_hub as hub
for name in sys.argv[1:]:
    print(hub.hf_hub_download("org/model", name, local_files_only=True))
print(hub.snapshot_download("org/model", local_files_only=True))
"""
DOWNLOAD = """
import sys, huggingface_hub as hub
for name in sys.argv[1:]:
    print(hub.hf_hub_download("org/model", name))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    downloads = 0

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/model"):
            siblings = ",".join(f'{{"rfilename":"{name}"}}' for name in FILES)
            return self.reply(f'{{"id":"org/model","sha":"{COMMIT}","siblings":[{siblings}]}}'.encode(), {})
        name = path.rsplit("/", 1)[-1]
        if name not in FILES or "/org/model/resolve/" not in path:
            return self.send_error(404)
        data = (MODEL / name).read_bytes()
        Hub.downloads += self.command == "GET"
        self.reply(data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def reply(self, data, headers):
        self.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def call(command, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(command, env={**kept, **variables}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"exit status {done.returncode}: {command}")
    return done.stdout.splitlines()


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--recaption", default=str(ROOT / "target/release/recaption"))
    a = a.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    with tempfile.TemporaryDirectory() as home:
        call([a.recaption, "pull", "org/model"], HF_ENDPOINT=endpoint, HF_HOME=home)
        found = call([sys.executable, "-c", FIND, *FILES], HF_HUB_OFFLINE="1", HF_HOME=home)
        for name, path in zip(FILES, found):
            if pathlib.Path(path).read_bytes() != (MODEL / name).read_bytes():
                sys.exit(f"{path} differs")
        print(f"pulled by recaption, found by huggingface_hub: {len(found) - 1} files, in {found[-1].removeprefix(home)}")
    with tempfile.TemporaryDirectory() as home:
        call([sys.executable, "-c", DOWNLOAD, *FILES], HF_ENDPOINT=endpoint, HF_HOME=home, HF_HUB_DISABLE_XET="1")
        model = str(pathlib.Path(home, "model"))
        command = [a.recaption, "export", "--checkpoint", "hf://org/model", "--out", model]
        call(command, HF_HUB_OFFLINE="1", HF_HOME=home)
        before = Hub.downloads
        call([a.recaption, "pull", "org/model"], HF_ENDPOINT=endpoint, HF_HOME=home)
        if Hub.downloads != before:
            sys.exit("recaption downloaded what huggingface_hub had cached")
        print("downloaded by huggingface_hub, exported by recaption offline, not downloaded again")


main()
