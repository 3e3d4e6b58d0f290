"""`make bench`: ratios of this machine, measured in one run.

    python3 benchmarks/run.py

1. The whole pipeline against the sum of its parts (benchmarks/pipeline.rs).
2. Decode + resize on one thread against Pillow (stages/image/examples/decode_bench.rs, benchmarks/pillow_decode.py), in turns.

3. Continuous against static batching (benchmarks/continuous.py).

Pillow is installed into target/bench-venv. Absolute times are of this machine and moment; the ratios are what to look at.
"""
import json, pathlib, statistics, subprocess, sys, venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "bench-venv"
IMAGES = ROOT / "tests" / "data" / "preprocess"
ROUNDS, SECONDS = 3, "0.5"


def cargo(*args: str) -> None:
    subprocess.run(["cargo", *args], cwd=ROOT, check=True)


def python() -> str:
    """A Python with Pillow."""
    path = VENV / "bin" / "python"
    if not path.exists():
        venv.create(VENV, with_pip=True)
    subprocess.run([path, "-m", "pip", "install", "--quiet", "pillow==13.0.0"], check=True)
    return str(path)


def decode() -> None:
    cargo("build", "--quiet", "--locked", "--release", "-p", "recaption-image", "--example", "decode_bench")
    files = sorted(str(p) for p in IMAGES.iterdir() if p.suffix in (".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff"))
    ours_command = [str(ROOT / "target/release/examples/decode_bench"), "--json", "--seconds", SECONDS]
    theirs_command = [python(), str(ROOT / "benchmarks/pillow_decode.py"), "--seconds", SECONDS]
    print(f"\ndecode + resize to 224 on one thread, ms per image, median of {ROUNDS} turns")
    print(f"{'file':<26} {'recaption':>10} {'Pillow':>10} {'ratio':>7}")
    jpegs = []
    for file in files:
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(json.loads(subprocess.check_output([*ours_command, file]))[file]["ms"])
            theirs.append(json.loads(subprocess.check_output([*theirs_command, file]))[file]["ms"])
        ratio = statistics.median(t / o for o, t in zip(ours, theirs))
        if file.endswith(".jpg"):
            jpegs.append(ratio)
        print(f"{pathlib.Path(file).name:<26} {statistics.median(ours):>10.2f} {statistics.median(theirs):>10.2f} {ratio:>7.2f}")
    print(f"JPEGs: {min(jpegs):.2f} to {max(jpegs):.2f} times Pillow's speed (asked: 1.5)")


def main() -> None:
    cargo("bench", "--quiet", "--locked", "--bench", "pipeline")
    sys.stdout.flush()
    decode()
    print()
    sys.stdout.flush()
    subprocess.run([python(), str(ROOT / "benchmarks/continuous.py")], check=True)


main()
