"""Exports and verifies a CoCa of full size: weights above 2 GB as external data, against open_clip itself.

    pip install open_clip_torch==3.3.0 transformers==4.48.3 torch safetensors
    cargo build --release && make onnxruntime
    python scripts/check_large_export.py --model coca_ViT-L-14

Makes a randomly initialised checkpoint of that configuration and a reference of two images with
tests/data/coca/make_goldens.py, runs `recaption export` and `recaption verify`, and prints sizes, times and each
command's peak memory. Not part of `make test`: coca_ViT-L-14 takes minutes and about 12 GB of disk. Everything lies in
--dir, which is removed at the end when it is a temporary one. Exit status 1 when a step fails.

Peak memory is what the kernel counts as resident, pages of mapped files included.
"""
import argparse, os, pathlib, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def measured(name, command):
    """Runs a command; prints its time and peak memory; fails with it."""
    began = time.monotonic()
    child = subprocess.Popen([str(part) for part in command])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    print(f"{name}: exit {child.returncode}, {seconds:.1f} s, peak {usage.ru_maxrss / 1024:.0f} MiB", flush=True)
    if child.returncode != 0:
        sys.exit(1)


def check(a, directory):
    config = directory / "config.json"
    # Not imported here: a child's peak counts what this process held when it was forked.
    read = "import json, sys, open_clip; json.dump(open_clip.get_model_config(sys.argv[1]), sys.stdout)"
    config.write_bytes(subprocess.run([sys.executable, "-c", read, a.model], check=True, stdout=subprocess.PIPE).stdout)
    checkpoint, model = directory / "checkpoint", directory / "model"
    make = ROOT / "tests/data/coca/make_goldens.py"
    measured("reference", [sys.executable, make, "--config", config, "--n", "2", "--beams", "0", "--out", checkpoint])
    measured("export", [a.recaption, "export", "--checkpoint", checkpoint, "--out", model, "--precision", a.precision])
    for path in [checkpoint / "open_clip_model.safetensors", *sorted(model.iterdir())]:
        print(f"  {path.relative_to(directory)}: {path.stat().st_size:,} bytes")
    measured("verify", [a.recaption, "verify", model, checkpoint / "golden.safetensors"])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", default="coca_ViT-L-14", help="a name in open_clip's model_configs")
    p.add_argument("--precision", default="fp32")
    p.add_argument("--recaption", type=pathlib.Path, default=ROOT / "target/release/recaption")
    p.add_argument("--dir", type=pathlib.Path, help="keep the files here")
    a = p.parse_args()
    os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / "target/onnxruntime/lib/libonnxruntime.so"))
    if a.dir:
        a.dir.mkdir(parents=True, exist_ok=True)
        check(a, a.dir)
    else:
        with tempfile.TemporaryDirectory() as directory:
            check(a, pathlib.Path(directory))


main()
