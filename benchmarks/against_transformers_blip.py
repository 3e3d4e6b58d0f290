"""Captions per second of a BLIP base against transformers' `generate`, and what matching (ITM) adds, on the same weights and images.

    python3 benchmarks/against_transformers_blip.py [--python INTERPRETER] [--images 16] [--rounds 2]

INTERPRETER has torch and transformers 5; without one they are installed into target/bench-blip. Weights are random and of BLIP base's
size (384 pixels in patches of 16, 12 layers of 768 on both sides, 30,524 entries); `max_length` is 20. Ids of greedy and beam search
are compared. Both sides use all cores; ours as many copies of the model as `recaption run` would. Turns are interleaved, ratios are
medians of the ratios of neighbouring turns. FLOP are of matrix products alone.
"""
import argparse, ast, json, os, pathlib, statistics, subprocess, sys, venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
WORK = TARGET / "bench-blip-work"
PEER = ROOT / "benchmarks" / "transformers_blip_peer.py"
EXAMPLES = TARGET / "release" / "examples"
PACKAGES = ["transformers>=5,<6", "torch", "safetensors", "numpy"]
# As in pipeline/run/captioners.rs: what the copies of a model may weigh together.
COPIES_BYTES = 4 << 30
WIDTH, LAYERS, TOKENS, VOCABULARY = 768, 12, 577, 30524
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


def ours(args: argparse.Namespace, strategy: str) -> dict:
    folder, ids = WORK / "captioner.onnx", WORK / f"{strategy}.txt"
    command = [EXAMPLES / "caption_bench", folder, WORK / "images.u8", f"max_tokens={args.length - 1}", "min_tokens=0",
               f"strategy={strategy}", f"beams={args.beams}", f"slots={args.slots}", f"copies={copies(folder)}", "seconds=1", f"ids={ids}"]
    rows = last_line(command, env=environment())
    return rows | {"ids": [ast.literal_eval(line) for line in ids.read_text().splitlines()]}


def until_end(row: list[int]) -> list[int]:
    """A caption's ids without its start token, up to its end token; one that reached the maximal length has none."""
    row = row[1:]
    return row[: row.index(102) + 1] if 102 in row else row


def against(args: argparse.Namespace, strategy: str, target: float) -> None:
    theirs, mine, ratios = [], [], []
    for _ in range(args.rounds):
        theirs.append(peer(args, strategy))
        mine.append(ours(args, strategy))
        ratios.append(mine[-1]["captions_per_second"] / theirs[-1]["captions_per_second"])
    rate = {name: statistics.median(turn["captions_per_second"] for turn in turns) for name, turns in (("theirs", theirs), ("ours", mine))}
    wanted = [until_end(row) for row in theirs[-1]["ids"]]
    got = mine[-1]["ids"][: len(wanted)]
    equal = sum(until_end([0, *b]) == a for a, b in zip(wanted, got))
    lengths = sorted(len(row) for row in wanted)
    print(f"{strategy:<7} transformers {rate['theirs']:.3f}/s, recaption {rate['ours']:.3f}/s: {statistics.median(ratios):.2f}x (target {target:.0f}x)")
    print(f"        {equal} of {len(wanted)} captions have equal ids, {len({tuple(row) for row in wanted})} different ones of {lengths[0]} to {lengths[-1]} tokens")
    shares = ", ".join(f"{part} {100 * mine[-1][part + '_share']:.0f} %" for part in ("encode", "decode", "select", "copy"))
    print(f"        recaption's time: {shares}; transformers': image encoder {100 * theirs[-1]['vision_share']:.0f} %")
    cost = gflop(args.beams if strategy == "beam" else 1, statistics.mean(lengths))
    total = sum(cost.values())
    shares = ", ".join(f"{part} {value:.1f}" for part, value in cost.items())
    encoder = mine[-1]["encode_images_per_second"]
    print(f"        GFLOP a caption: {shares}, together {total:.0f}; recaption makes {rate['ours'] * total:.0f} GFLOP/s")
    print(f"        bound by the image encoder alone: recaption {encoder * CORES:.2f} images/s on {CORES} cores, transformers "
          f"{theirs[-1]['vision_images_per_second']:.2f}: {encoder * CORES / theirs[-1]['vision_images_per_second']:.2f}x")
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
    for name in ("captioner", "scorer"):
        command = [TARGET / "release" / "recaption", "export", "--checkpoint", WORK / name, "--out", WORK / f"{name}.onnx"]
        if not (WORK / f"{name}.onnx" / "model.json").exists():
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
