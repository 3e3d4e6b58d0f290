"""Time of a training step against torch: the same open_clip checkpoint, batches, objective, optimizer and threads, in one run.

    python3 benchmarks/training.py [--checkpoint onnx/models/coca-scenes-base] [--batch 64] [--steps 12] [--rounds 3]
    python3 benchmarks/training.py --device cuda --precision bf16
    make bench-training

Installs open_clip as `against_open_clip.py` does. Both sides start from the same weights and see the same batches of scenes
with alt texts; their losses are compared over the warm-up and the timed steps. Turns are interleaved; the ratio is the median
of the ratios of neighbouring turns (above 1: faster than torch).
"""
import argparse, json, os, pathlib, statistics, subprocess

from against_open_clip import PYTHON, ROOT, TARGET, environment, install

WORK = TARGET / "bench-training"
STEP_TIME = TARGET / "release" / "examples" / "step_time"
PEER = ROOT / "benchmarks" / "training_peer.py"
# Run inside the virtual environment, which has Pillow, tokenizers and safetensors.
PREPARE = """
import io, json, pathlib, sys, tarfile
import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer
shard, checkpoint, out = map(pathlib.Path, sys.argv[1:])
cfg = json.loads((checkpoint / "open_clip_config.json").read_text())["model_cfg"]
side, length, vocab = cfg["vision_cfg"]["image_size"], cfg["text_cfg"]["context_length"], cfg["text_cfg"]["vocab_size"]
tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
images, texts = [], []
with tarfile.open(shard) as tar:
    for member in tar:
        data = tar.extractfile(member).read()
        if member.name.endswith(".jpg"):
            images.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.BICUBIC)))
        elif member.name.endswith(".txt"):
            ids = [vocab - 2, *tokenizer.encode(data.decode()).ids[: length - 2], vocab - 1]
            texts.append(ids + [0] * (length - len(ids)))
save_file({"images": np.stack(images), "text": np.array(texts, np.int64)}, out)
"""


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--checkpoint", type=pathlib.Path, default=ROOT / "onnx" / "models" / "coca-scenes-base")
    a.add_argument("--batch", type=int, default=64)
    a.add_argument("--steps", type=int, default=12)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: never run so far")
    a.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    args = a.parse_args()
    install()
    cargo = ["cargo", "build", "--quiet", "--locked", "--release", "-p", "recaption-finetune", "--example", "step_time"]
    cargo += ["--features", "cuda"] if args.device == "cuda" else []
    subprocess.run(cargo, cwd=ROOT, check=True)
    WORK.mkdir(parents=True, exist_ok=True)
    samples = 8 * args.batch
    subprocess.run([TARGET / "release" / "recaption", "scenes", "--out", WORK / "shards", "--samples", str(samples), "--seed", "7"],
                   check=True, env=environment(), stdout=subprocess.DEVNULL)
    inputs = WORK / "inputs.safetensors"
    subprocess.run([PYTHON, "-c", PREPARE, WORK / "shards" / "00000.tar", args.checkpoint, inputs], check=True)
    threads = str(os.cpu_count())
    sizes = ["--device", args.device, "--precision", args.precision, "--batch", str(args.batch), "--steps", str(args.steps), "--warmup", "3"]
    ours_command = [STEP_TIME, args.checkpoint, inputs, *sizes]
    theirs_command = [PYTHON, PEER, args.checkpoint, inputs, *sizes, "--threads", threads]
    ratios, worst = [], 0.0
    for turn in range(args.rounds):
        ours = json.loads(subprocess.check_output(ours_command, env=os.environ | {"RAYON_NUM_THREADS": threads}))
        theirs = json.loads(subprocess.check_output(theirs_command).splitlines()[-1])
        ratio = theirs["seconds_per_step_median"] / ours["seconds_per_step_median"]
        ratios.append(ratio)
        for mine, other in zip(ours["losses"], theirs["losses"]):
            worst = max(worst, *(abs(x - y) / abs(y) for x, y in zip(mine, other)))
        print(f"round {turn + 1}: ours {ours['seconds_per_step_median']:.3f} s, torch {theirs['seconds_per_step_median']:.3f} s, "
              f"ratio {ratio:.2f}", flush=True)
    print(f"\n{args.checkpoint.name}, batch {args.batch}, {threads} threads: {statistics.median(ratios):.2f} times torch's speed "
          f"({min(ratios):.2f} to {max(ratios):.2f}); losses of {args.steps + 3} steps differ by {worst:.1e} at most, relative")


if __name__ == "__main__":
    main()
