"""What int8 does to captions and similarities of a trained captioner: the bundled one, on scenes it never saw.

    python3 benchmarks/precision.py [--scenes 2000] [--seed 9]

Draws scenes with `recaption demo`, captions them in fp32 and in int8, and compares the two outputs row by row with pyarrow
(installed into target/bench-venv). The scenes have junk, short and true alt texts, so that similarities spread.
"""
import argparse, pathlib, subprocess, tempfile, venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "bench-venv"

COMPARE = """
import sys
import numpy as np, pyarrow.dataset as ds

def load(path):
    return ds.dataset(path).to_table(columns=["shard", "key", "caption", "similarity", "org_similarity"]).sort_by([("shard", "ascending"), ("key", "ascending")])

a, b = load(sys.argv[1]), load(sys.argv[2])
assert a["key"].equals(b["key"])
column = lambda t, name: t[name].to_numpy(zero_copy_only=False)
equal = column(a, "caption") == column(b, "caption")
print(f"captions         {equal.sum()} of {len(equal)} equal ({100 * equal.mean():.1f} %)")
for name in ("similarity", "org_similarity"):
    x, y = column(a, name).astype(float), column(b, name).astype(float)
    both = ~(np.isnan(x) | np.isnan(y))
    x, y = x[both], y[both]
    print(f"{name:<16} mean {x.mean():.4f} in fp32, {y.mean():.4f} in int8; largest difference {abs(x - y).max():.4f}; correlation {np.corrcoef(x, y)[0, 1]:.5f}")
x, y = column(a, "org_similarity"), column(b, "org_similarity")
kept = x >= np.nanquantile(x, 0.7), y >= np.nanquantile(y, 0.7)
print(f"--keep-top 0.3 by org_similarity keeps the same rows but for {(kept[0] != kept[1]).sum() // 2} of {kept[0].sum()}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=9)
    args = parser.parse_args()
    subprocess.run(["make", "--quiet", "onnxruntime"], cwd=ROOT, check=True)
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "--bin", "recaption"], cwd=ROOT, check=True)
    if not VENV.exists():
        venv.create(VENV, with_pip=True)
    python = VENV / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "pyarrow", "numpy"], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        demo = pathlib.Path(scratch) / "demo"

        def recaption(*arguments) -> str:
            # cargo's run knows where the library is.
            command = ["cargo", "run", "--quiet", "--locked", "--release", "--", *map(str, arguments)]
            return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout

        shown = recaption("demo", "--dir", demo, "--scenes", args.scenes, "--seed", args.seed)
        # Of the demo's table the base, in fp32, and the heading.
        print(*(line for line in shown.splitlines() if line.startswith((f"{args.scenes} scenes", "base "))), sep="\n")
        recaption("export", "--checkpoint", demo / "checkpoint", "--out", demo / "int8", "--precision", "int8")
        recaption("run", "--model", demo / "int8", "--input", demo / "shards", "--output", demo / "out-int8")
        subprocess.run([python, "-c", COMPARE, demo / "output" / "captions", demo / "out-int8" / "captions"], check=True)


main()
