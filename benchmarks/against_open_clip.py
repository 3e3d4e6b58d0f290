"""Captions per second against open_clip's own `generate`, on the same weights and images, in one run.

    python3 benchmarks/against_open_clip.py [--model coca_ViT-B-32] [--skip-beams] [--skip-int8] [--skip-roofline]
    make bench-open-clip

Installs open_clip 3.3.0 with transformers 4.48.3 and torch into target/bench-open-clip on the first call (several GB). Weights are
random (open_clip leaves a projection uninitialised, so all are initialised, as the reference cases do). Greedy: 30 generated
tokens, ids compared with open_clip's. Beams: open_clip 3.3.0 adds raw logits where Hugging Face adds log-probabilities, so
only the time is compared; ids are checked by the reference cases. Both sides use all cores; ours as many copies of the model
as `recaption run` would. Turns are interleaved, ratios are medians of the ratios of neighbouring turns.
"""
import argparse, ast, json, os, pathlib, statistics, subprocess, sys, venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
VENV = TARGET / "bench-open-clip"
PYTHON = VENV / "bin" / "python"
PACKAGES = ["open_clip_torch==3.3.0", "transformers==4.48.3", "torch", "torchvision", "onnxruntime==1.31.1", "onnx"]
BENCH = TARGET / "release" / "examples" / "caption_bench"
PEER = ROOT / "benchmarks" / "open_clip_peer.py"
# As in pipeline/run/wire.rs: what the copies of a model may weigh together.
COPIES_BYTES = 4 << 30


def install() -> None:
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    subprocess.run(["make", "--quiet", "onnxruntime"], cwd=ROOT, check=True)
    cargo = ["cargo", "build", "--quiet", "--locked", "--release"]
    subprocess.run([*cargo, "--bin", "recaption"], cwd=ROOT, check=True)
    subprocess.run([*cargo, "-p", "recaption-onnx", "--example", "caption_bench"], cwd=ROOT, check=True)


def environment() -> dict[str, str]:
    library = TARGET / "onnxruntime" / "lib" / "libonnxruntime.so"
    return {"ORT_DYLIB_PATH": str(library)} | os.environ


class Bench:
    def __init__(self, args: argparse.Namespace):
        self.args, self.work = args, TARGET / "bench-open-clip-work" / args.model
        self.precisions = ["fp32"] + ([] if args.skip_int8 else ["int8"])

    def prepare(self) -> None:
        subprocess.run([PYTHON, PEER, "make", self.args.model, self.work, str(self.args.images), "0", "0"], check=True,
                       stdout=subprocess.DEVNULL)
        for precision in self.precisions:
            command = [TARGET / "release" / "recaption", "export", "--checkpoint", self.work / "checkpoint", "--out",
                       self.work / precision, "--precision", precision]
            subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def theirs(self, task: str) -> dict:
        a = self.args
        command = [PYTHON, PEER, task, a.model, self.work, str(a.peer_images), str(a.tokens), str(a.beams)]
        return json.loads(subprocess.check_output(command).splitlines()[-1])

    def ours(self, precision: str, strategy: str, slots: int) -> dict:
        folder, a = self.work / precision, self.args
        bytes_ = sum(f["size"] for f in json.loads((folder / "model.json").read_text())["files"])
        copies = a.copies or max(1, min(os.cpu_count() or 1, COPIES_BYTES // bytes_))
        command = [BENCH, folder, self.work / "images.u8", f"max_tokens={a.tokens}", "min_tokens=4", f"strategy={strategy}",
                   f"beams={a.beams}", f"slots={slots}", f"copies={copies}", f"ids={self.work / f'{precision}.txt'}", *a.option]
        return json.loads(subprocess.check_output(command, env=environment())) | {"copies": copies}

    def ids(self, precision: str) -> list[list[int]]:
        return [ast.literal_eval(line) for line in (self.work / f"{precision}.txt").read_text().splitlines()]

    def strategy(self, name: str, slots: int, rounds: int) -> None:
        ours, theirs, ratios = {p: [] for p in self.precisions}, [], {p: [] for p in self.precisions}
        for _ in range(rounds):
            peer = self.theirs(name)
            theirs.append(peer["captions_per_second"])
            for precision in self.precisions:
                ours[precision].append(self.ours(precision, name, slots))
                ratios[precision].append(ours[precision][-1]["captions_per_second"] / theirs[-1])
        print(f"{name:<7} {'open_clip':<10} {statistics.median(theirs):>9.3f}/s")
        for precision in self.precisions:
            rate = statistics.median(o["captions_per_second"] for o in ours[precision])
            last, note = ours[precision][-1], ""
            if name == "greedy":
                rows = [row[1 : row.index(peer["end"]) + 1] for row in peer["ids"]]
                note = f"   {sum(a == b for a, b in zip(rows, self.ids(precision)))} of {len(rows)} captions equal to open_clip's"
            print(f"{'':<7} {precision:<10} {rate:>9.3f}/s {statistics.median(ratios[precision]):>7.1f}x{note}")
            parts = ", ".join(f"{part} {100 * last[part + '_share']:.0f} %" for part in ("encode", "decode", "select", "copy"))
            print(f"{'':<18} {last['copies']} copies; time: {parts}; encode {last['encode_images_per_second']:.1f} images/s alone, "
                  f"{last['step_ms']:.0f} ms per step of {last['rows_per_step']} rows")
        if len(self.precisions) == 2:
            gain = statistics.median(b["captions_per_second"] / a["captions_per_second"] for a, b in zip(ours["fp32"], ours["int8"]))
            fp32, int8 = self.ids("fp32"), self.ids("int8")
            print(f"{'':<7} int8 over fp32 {gain:.2f}x; {sum(a == b for a, b in zip(fp32, int8))} of {len(fp32)} captions equal to fp32's")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="coca_ViT-B-32")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--peer-images", type=int, default=8, help="open_clip's batch")
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--beams", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=0, help="0: as many as `recaption run` takes")
    parser.add_argument("--option", action="append", default=[], help="caption_bench's key=value")
    for what in ("beams", "int8", "roofline"):
        parser.add_argument(f"--skip-{what}", action="store_true")
    args = parser.parse_args()
    install()
    bench = Bench(args)
    bench.prepare()
    gemm = [bench.theirs("gemm")["gflops"]]
    print(f"{args.model}, {args.tokens} tokens, open_clip in batches of {args.peer_images}, interleaved turns")
    bench.strategy("greedy", 32, args.rounds)
    if not args.skip_beams:
        bench.strategy("beam", 16, max(1, args.rounds - 1))
    gemm.append(bench.theirs("gemm")["gflops"])
    print(f"torch's GEMM of 2048^3 on all cores, before and after: {gemm[0]:.0f} and {gemm[1]:.0f} GFLOP/s")
    if not args.skip_roofline:
        for precision in bench.precisions:
            print(f"\nroofline of the {precision} graphs")
            sys.stdout.flush()
            subprocess.run([PYTHON, ROOT / "benchmarks" / "roofline.py", bench.work / precision, "--checkpoint",
                            bench.work / "checkpoint", "--profile"], check=True)


if __name__ == "__main__":
    main()
