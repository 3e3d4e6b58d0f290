"""Captions per second of a BLIP base against transformers' `generate`, in fp32 and int8, and what matching (ITM) adds, on the same weights
and images.

    python3 benchmarks/against_transformers_blip.py [--python INTERPRETER] [--images 16] [--rounds 2]

INTERPRETER has torch and transformers 5; without one they are installed into target/bench-blip. Weights are random and of BLIP base's
size (384 pixels in patches of 16, 12 layers of 768 on both sides, 30,524 entries); `max_length` is 20. Ids of greedy and beam search
are compared; transformers runs in fp32. Both sides use all cores; ours as many copies of the model as `recaption run` would. Turns are interleaved, ratios are
medians of the ratios of neighbouring turns. FLOP are of matrix products alone.
"""
import argparse, ast, json, os, pathlib, shutil, statistics, subprocess, sys, venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
WORK = TARGET / "bench-blip-work"
PEER = ROOT / "benchmarks" / "transformers_blip_peer.py"
EXAMPLES = TARGET / "release" / "examples"
PACKAGES = ["transformers>=5,<6", "torch", "safetensors", "numpy"]
# As in pipeline/run/captioners.rs: what the copies of a model may weigh together.
COPIES_BYTES = 4 << 30
WIDTH, LAYERS, TOKENS, VOCABULARY = 768, 12, 577, 30524
FOLDERS = {"fp32": "captioner.onnx", "int8": "captioner-int8.onnx"}
CORES = len(os.sched_getaffinity(0))


def gflop(beams: int, steps: float) -> dict[str, float]:
    """GFLOP of one caption: image encoder, cross-attention's keys and values, decoder."""
    layer = 12 * WIDTH**2 * TOKENS + 2 * TOKENS**2 * WIDTH
    image = LAYERS * layer + (TOKENS - 1) * WIDTH * 3 * 16**2
    step = LAYERS * (14 * WIDTH**2 + 2 * TOKENS * WIDTH) + WIDTH * (VOCABULARY + WIDTH)
    return {"image": 2e-9 * image, "keys": 2e-9 * LAYERS * 2 * WIDTH**2 * TOKENS, "decoder": 2e-9 * step * beams * steps}


def python(given: str | None) -> str:
    if given:
        return given
    folder = TARGET / "bench-blip"
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(folder / "bin" / "python")


def environment() -> dict[str, str]:
    return {"ORT_DYLIB_PATH": str(TARGET / "onnxruntime" / "lib" / "libonnxruntime.so")} | os.environ


def last_line(command: list, **settings) -> dict:
    return json.loads(subprocess.check_output([str(part) for part in command], **settings).splitlines()[-1])


def peer(args: argparse.Namespace, task: str) -> dict:
    images = args.images if task == "make" else args.peer_images
    return last_line([args.python, PEER, task, WORK, images, args.length, args.beams])


def copies(folder: pathlib.Path) -> int:
    bytes_ = sum(file["size"] for file in json.loads((folder / "model.json").read_text())["files"])
    return max(1, min(CORES, COPIES_BYTES // bytes_))


def ours(args: argparse.Namespace, strategy: str, precision: str = "fp32") -> dict:
    folder, ids = WORK / FOLDERS[precision], WORK / f"{strategy}-{precision}.txt"
    command = [EXAMPLES / "caption_bench", folder, WORK / "images.u8", f"max_tokens={args.length - 1}", "min_tokens=0",
               f"strategy={strategy}", f"beams={args.beams}", f"slots={args.slots}", f"copies={copies(folder)}", "seconds=1", f"ids={ids}"]
    rows = last_line(command, env=environment())
    return rows | {"ids": [ast.literal_eval(line) for line in ids.read_text().splitlines()]}


def until_end(row: list[int]) -> list[int]:
    """A caption's ids without its start token, up to its end token; one that reached the maximal length has none."""
    row = row[1:]
    return row[: row.index(102) + 1] if 102 in row else row


def equal_ids(wanted: list[list[int]], got: list[list[int]]) -> int:
    return sum(until_end([0, *mine]) == theirs for theirs, mine in zip(wanted, got))


def against(args: argparse.Namespace, strategy: str, target: float) -> None:
    turns = []
    for _ in range(args.rounds):
        turns.append({"transformers": peer(args, strategy)} | {precision: ours(args, strategy, precision) for precision in FOLDERS})
        print("  turn:", ", ".join(f"{side} {rows['captions_per_second']:.3f}/s" for side, rows in turns[-1].items()), flush=True)
    median = lambda of: statistics.median(of(turn) for turn in turns)
    rate = lambda side: median(lambda turn: turn[side]["captions_per_second"])
    ratio = lambda side, base: median(lambda turn: turn[side]["captions_per_second"] / turn[base]["captions_per_second"])
    theirs, mine = turns[-1]["transformers"], turns[-1]["fp32"]
    wanted = [until_end(row) for row in theirs["ids"]]
    lengths = sorted(len(row) for row in wanted)
    print(f"{strategy:<7} transformers {rate('transformers'):.3f}/s, recaption {rate('fp32'):.3f}/s: {ratio('fp32', 'transformers'):.2f}x (target {target:.0f}x)")
    print(f"        int8 {rate('int8'):.3f}/s: {ratio('int8', 'transformers'):.2f}x, {ratio('int8', 'fp32'):.2f}x recaption's fp32")
    equal = {precision: equal_ids(wanted, turns[-1][precision]["ids"]) for precision in FOLDERS}
    print(f"        ids equal to transformers': fp32 {equal['fp32']} of {len(wanted)}, int8 {equal['int8']}; "
          f"{len({tuple(row) for row in wanted})} different captions of {lengths[0]} to {lengths[-1]} tokens")
    for precision in FOLDERS:
        shares = ", ".join(f"{part} {100 * turns[-1][precision][part + '_share']:.0f} %" for part in ("encode", "decode", "select", "copy"))
        print(f"        recaption's time in {precision}: {shares}; images alone {turns[-1][precision]['encode_images_per_second']:.2f}/s on {CORES} cores")
    cost = gflop(args.beams if strategy == "beam" else 1, statistics.mean(lengths))
    total = sum(cost.values())
    shares = ", ".join(f"{part} {value:.1f}" for part, value in cost.items())
    print(f"        GFLOP a caption: {shares}, together {total:.0f}; recaption makes {rate('fp32') * total:.0f} GFLOP/s in fp32")
    print(f"        transformers' image encoder takes {100 * theirs['vision_share']:.0f} % of its time, {theirs['vision_images_per_second']:.2f} images/s; "
          f"recaption's has {mine['encode_images_per_second'] / theirs['vision_images_per_second']:.2f} times that rate")
    sys.stdout.flush()


def matching(args: argparse.Namespace) -> None:
    """What ITC and ITM of a scorer of base size cost, in milliseconds of one core an image, and as shares of captioning."""
    folder = WORK / "scorer.onnx"
    one = last_line([EXAMPLES / "match_bench", folder, WORK / "images.u8", f"copies={copies(folder)}", f"images={args.images}"], env=environment())
    caption = 1000 * CORES / ours(args, "beam")["captions_per_second"]
    print(f"matching, ms of a core per image; captioning with {args.beams} beams takes {caption:.0f}")
    base = one["encode_ms"] + one["itc_ms"]
    print(f"        scorer's image encoder {one['encode_ms']:.0f}, ITC of {one['candidates']} candidates {one['itc_ms']:.0f}: "
          f"{100 * base / caption:.0f} % of captioning")
    for most, ms in one["itm_ms"].items():
        print(f"        ITM of {most} candidates {ms:.0f} ({one['texts_per_second'][most]:.1f} pairs/s): {100 * ms / caption:.1f} % of captioning, "
              f"{100 * ms / (caption + base):.1f} % of a run that scores by ITC")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="interpreter with torch and transformers 5")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--peer-images", type=int, default=8, help="transformers' batch")
    parser.add_argument("--length", type=int, default=20, help="transformers' max_length")
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--skip-captions", action="store_true")
    args = parser.parse_args()
    args.python = python(args.python)
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "--workspace", "--bins",
                    "--examples"], cwd=ROOT, check=True)
    peer(args, "make")
    exports = [("captioner", precision, folder) for precision, folder in FOLDERS.items()] + [("scorer", "fp32", "scorer.onnx")]
    for name, precision, folder in exports:
        # Always new: graphs change with the program.
        shutil.rmtree(WORK / folder, ignore_errors=True)
        command = [TARGET / "release" / "recaption", "export", "--checkpoint", WORK / name, "--precision", precision, "--out", WORK / folder]
        subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    gemm = [peer(args, "gemm")["gflops"]]
    if not args.skip_captions:
        against(args, "greedy", 3)
        against(args, "beam", 5)
    matching(args)
    gemm.append(peer(args, "gemm")["gflops"])
    print(f"torch's GEMM of 2048^3 on {CORES} cores, before and after: {gemm[0]:.0f} and {gemm[1]:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
