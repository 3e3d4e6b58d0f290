"""Makes the pictures of the report in the documentation, docs/src/images/report-*.png, from an output of the demo.

    cargo build --release && python3 scripts/screenshots.py

Needs Chromium, and Node with what scripts/test_services.py installs. Fails when a picture is larger than 200 kB.
"""
import json, os, pathlib, shutil, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
PROGRAM = TARGET / "release" / "recaption"
IMAGES = ROOT / "docs/src/images"
SCENES = 2000
MAX_BYTES = 200_000
# Its path is in the pictures, so it is the same on every machine.
DEMO = pathlib.Path("/tmp/recaption-demo")


def main() -> None:
    subprocess.run([sys.executable, ROOT / "scripts/test_services.py"], check=True)
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    chromium = next((path for path in map(shutil.which, names) if path), None) or sys.exit("no Chromium: apt-get install chromium")
    env = dict(os.environ)
    env.setdefault("ORT_DYLIB_PATH", str(TARGET / "onnxruntime/lib/libonnxruntime.so"))
    DEMO.mkdir()
    try:
        subprocess.run([PROGRAM, "demo", "--dir", DEMO, "--scenes", str(SCENES)], env=env, check=True, stdout=subprocess.DEVNULL)
        # A relative path, so that the command in the picture is a short one.
        subprocess.run([PROGRAM, "report", "output", "--seed", "7"], cwd=DEMO, env=env, check=True)
        IMAGES.mkdir(exist_ok=True)
        done = subprocess.run(["node", ROOT / "tests/support/browser.mjs", TARGET / "test-services/browser", chromium,
                               DEMO / "report.html", "shots", IMAGES], check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(DEMO)
    for path in map(pathlib.Path, json.loads(done.stdout)):
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB")
        if size > MAX_BYTES:
            sys.exit(f"{path.name} is larger than {MAX_BYTES // 1000} kB")


main()
