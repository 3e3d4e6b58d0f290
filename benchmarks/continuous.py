"""Continuous against static batching on captions of unlike length: the bundled captioner, sampling.

    target/bench-venv/bin/python benchmarks/continuous.py [--images 4096] [--slots 32] [--rounds 5]

Static: a batch is decoded until its longest caption ends, as `generate` functions do, and finished rows are computed on. "Freed":
a batch too, but half of its rows are dropped whenever half of them ended. Continuous: a finished row is replaced by the next image. The same
captions come out of all three; turns are interleaved, ratios are medians. Pictures are the demo's scenes. Needs Pillow; `make bench`
installs it and runs this.
"""
import argparse, json, os, pathlib, statistics, subprocess, tempfile

from scene_pixels import unpack

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH = ROOT / "target" / "release" / "examples" / "caption_bench"
MODES = {"static": ["static=1"], "freed": ["static=2"], "continuous": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cargo = ["cargo", "build", "--quiet", "--locked", "--release"]
    subprocess.run(["make", "--quiet", "onnxruntime"], cwd=ROOT, check=True)
    subprocess.run([*cargo, "--bin", "recaption"], cwd=ROOT, check=True)
    subprocess.run([*cargo, "-p", "recaption-onnx", "--example", "caption_bench"], cwd=ROOT, check=True)
    environment = {"ORT_DYLIB_PATH": str(ROOT / "target" / "onnxruntime" / "lib" / "libonnxruntime.so")} | os.environ
    with tempfile.TemporaryDirectory() as scratch:
        demo = pathlib.Path(scratch) / "demo"
        command = ["target/release/recaption", "demo", "--dir", demo, "--scenes", str(args.images)]
        subprocess.run(command, cwd=ROOT, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        size = json.loads((demo / "model" / "model.json").read_text())["image_size"]
        unpack(demo / "shards", size, demo / "images.u8")
        command = [BENCH, demo / "model", demo / "images.u8", "strategy=sample", f"slots={args.slots}", "copies=2", "seconds=3"]
        rates, ids, lengths = {mode: [] for mode in MODES}, {}, {}
        for _ in range(args.rounds):
            for mode, option in MODES.items():
                out = pathlib.Path(scratch) / f"{mode}.txt"
                result = json.loads(subprocess.check_output([*command, *option, f"ids={out}"], env=environment))
                rates[mode].append(result["captions_per_second"])
                ids[mode], lengths = out.read_text(), result
        print(f"{args.images} scenes, sampled captions of {lengths['mean_length']:.1f} tokens on average, {lengths['longest']} at most; "
              f"{args.slots} slots per copy, medians of {args.rounds} interleaved turns")
        for mode in MODES:
            ratio = statistics.median(a / b for a, b in zip(rates[mode], rates["static"]))
            print(f"{mode:<11} {statistics.median(rates[mode]):>8.0f} captions/s {ratio:>6.2f}x static")
        print("captions equal in all modes" if len(set(ids.values())) == 1 else "captions DIFFER between modes")


main()
