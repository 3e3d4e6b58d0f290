"""Captions per second against open_clip's own `generate`, on the same weights and images, in one run.

    python3 benchmarks/open_clip.py [--model coca_ViT-B-32] [--images 64] [--peer-images 8] [--beams 6] [--skip-beams]

Installs open_clip 3.3.0 with transformers 4.48.3 and torch into target/bench-open-clip on the first call (3 GB). Weights are
random (open_clip leaves a projection uninitialised, so all are drawn anew, as the reference cases do). Greedy: 30 generated
tokens, ids compared with open_clip's. Beams: open_clip 3.3.0 adds raw logits where Hugging Face adds log-probabilities, so
only the time is compared; ids are checked by the reference cases. Both sides use all cores. Turns are interleaved; a GEMM
measured in the same run says what the machine could do.
"""
import argparse, ast, json, os, pathlib, statistics, subprocess, sys, venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
VENV = TARGET / "bench-open-clip"
PYTHON = VENV / "bin" / "python"
PACKAGES = ["open_clip_torch==3.3.0", "transformers==4.48.3", "torch", "torchvision"]
BENCH = TARGET / "release" / "examples" / "caption_bench"


def install() -> None:
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)


def environment() -> dict[str, str]:
    library = TARGET / "onnxruntime" / "lib" / "libonnxruntime.so"
    return {"ORT_DYLIB_PATH": str(library)} | os.environ


def peer(args: argparse.Namespace, work: pathlib.Path, task: str) -> dict:
    command = [PYTHON, ROOT / "benchmarks" / "open_clip_peer.py", task, args.model, work,
               str(args.peer_images), str(args.tokens), str(args.beams)]
    return json.loads(subprocess.check_output(command).splitlines()[-1])


def ours(args: argparse.Namespace, work: pathlib.Path, model: str, *options: str) -> dict:
    command = [BENCH, work / model, work / "images.u8", f"max_tokens={args.tokens}", "min_tokens=4",
               f"ids={work / 'ids.txt'}", *args.option, *options]
    return json.loads(subprocess.check_output(command, env=environment()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="coca_ViT-B-32")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--peer-images", type=int, default=8, help="open_clip's batch")
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--beams", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-beams", action="store_true")
    parser.add_argument("--option", action="append", default=[], help="caption_bench's key=value, such as copies=2")
    args = parser.parse_args()
    install()
    subprocess.run(["make", "--quiet", "onnxruntime"], cwd=ROOT, check=True)
    cargo = ["cargo", "build", "--quiet", "--locked", "--release"]
    subprocess.run([*cargo, "--bin", "recaption"], cwd=ROOT, check=True)
    subprocess.run([*cargo, "-p", "recaption-onnx", "--example", "caption_bench"], cwd=ROOT, check=True)
    work = TARGET / "bench-open-clip-work" / args.model
    subprocess.run([PYTHON, ROOT / "benchmarks" / "open_clip_peer.py", "make", args.model, work, str(args.images), "0", "0"],
                   check=True, stdout=subprocess.DEVNULL)
    if not (work / "fp32" / "model.json").exists():
        subprocess.run([TARGET / "release" / "recaption", "export", "--checkpoint", work / "checkpoint", "--out",
                        work / "fp32"], check=True, env=environment(), stderr=subprocess.DEVNULL)
    strategies = [("greedy", [])] + ([] if args.skip_beams else [("beam", ["strategy=beam", f"beams={args.beams}"])])
    gemm = [peer(args, work, "gemm")["gflops"]]
    print(f"{args.model}, {args.tokens} tokens, medians of {args.rounds} interleaved turns")
    print(f"{'':<10} {'open_clip':>12} {'recaption':>12} {'ratio':>8}  ids equal to open_clip's")
    for name, options in strategies:
        theirs, own, equal = [], [], ""
        for _ in range(args.rounds if name == "greedy" else 1):
            a, b = peer(args, work, name), ours(args, work, "fp32", *options)
            theirs.append(a["captions_per_second"])
            own.append(b["captions_per_second"])
            if name == "greedy":
                lines = [ast.literal_eval(line) for line in (work / "ids.txt").read_text().splitlines()]
                rows = [row[1 : row.index(a["end"]) + 1] for row in a["ids"]]
                equal = f"{sum(x == y for x, y in zip(rows, lines))} of {len(rows)}"
        ratio = statistics.median(o / t for o, t in zip(own, theirs))
        print(f"{name:<10} {statistics.median(theirs):>10.3f}/s {statistics.median(own):>10.3f}/s {ratio:>7.1f}x  {equal}")
        print(f"{'':<10} ours: encode {b['encode_images_per_second']:.1f} images/s alone, {b['step_ms']:.0f} ms per step of "
              f"{b['rows_per_step']} rows, share of time in admit {b['admit_share']:.2f}, in steps {b['step_share']:.2f}")
        sys.stdout.flush()
    gemm.append(peer(args, work, "gemm")["gflops"])
    print(f"a GEMM of 2048^3 on all cores, before and after: {gemm[0]:.0f} and {gemm[1]:.0f} GFLOP/s (torch, fp32)")


main()
