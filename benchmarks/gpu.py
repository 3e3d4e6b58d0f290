"""One command for a machine with an NVIDIA GPU: what recaption does on it, and what the card could do.

    python3 benchmarks/gpu.py [--model coca_ViT-L-14] [--device 0] [--batches 64,128,256,512] [--provider cuda]

NEVER RUN ON A GPU SO FAR: it was written on a machine without one, where all it does is say so and end.

Prints, for every batch: images/s of the captioner (fp16, greedy, 30 tokens), the card's utilisation as nvidia-smi samples it,
the share of the roofline, and the ratio to open_clip's own `generate` in bf16 on the same card in the same run. The roofline
is computed from the model's sizes: for encoding and for every step the longer of floating-point operations over the card's
fp16 GEMM rate and bytes over its memory bandwidth, both measured here with torch. Then the operators that took the most time,
from ONNX Runtime's profile of one run. Needs 15 GB of disk and `make onnxruntime-gpu`, which it runs; installs open_clip and
torch into target/bench-open-clip.
"""
import argparse, collections, json, os, pathlib, shutil, statistics, subprocess, sys, tempfile, threading, venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
VENV = TARGET / "bench-open-clip"
PYTHON = VENV / "bin" / "python"
PACKAGES = ["open_clip_torch==3.3.0", "transformers==4.48.3", "torch", "torchvision"]
BENCH = TARGET / "release" / "examples" / "caption_bench"
LIBRARY = TARGET / "onnxruntime-gpu" / "lib" / "libonnxruntime.so"
TOKENS, HALF = 30, 2


def need_gpu(device: int) -> str:
    """The card's name; ends the program where there is none."""
    if shutil.which("nvidia-smi") is None:
        sys.exit("no NVIDIA GPU here: nvidia-smi is not installed. This benchmark needs a GPU and NVIDIA's driver, 580 or newer.")
    command = ["nvidia-smi", "-i", str(device), "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        sys.exit(f"GPU {device} cannot be used: {(asked.stdout + asked.stderr).strip()}")
    return asked.stdout.strip()


def sizes(config: dict) -> dict[str, float]:
    """Floating-point operations and bytes (fp16) of one image's encoding and of one token, from open_clip's configuration."""
    vision, text, decoder = config["vision_cfg"], config["text_cfg"], config["multimodal_cfg"]
    embed, patches = config["embed_dim"], (vision["image_size"] // vision["patch_size"]) ** 2
    wide, tokens = vision["width"], patches + 1
    # Weights of one block: queries, keys, values, output, and an MLP four times as wide.
    block, queries = lambda w: 4 * w * w + 8 * w * w, vision.get("n_queries", vision.get("attn_pooler_queries", 256))
    encoder = vision["layers"] * block(wide)
    scores = vision["layers"] * 4 * tokens * tokens * wide
    pooler = 2 * (2 * tokens * wide * embed + queries * embed * embed * 2) + 4 * queries * tokens * embed
    cross = decoder["layers"] * 2 * embed * decoder["width"]
    image = 2 * tokens * encoder + scores + 2 * patches * vision["patch_size"] ** 2 * 3 * wide + pooler + 2 * queries * cross
    # One token: the text tower, self-attention blocks, cross-attention blocks (keys and values are there), the vocabulary.
    width = decoder["width"]
    weights = text["layers"] * block(text["width"]) + decoder["layers"] * (block(width) + 2 * width * width + 8 * width * width)
    weights += width * text["vocab_size"]
    held = decoder["layers"] * 2 * queries * width
    past = 2 * (text["layers"] * text["width"] + decoder["layers"] * width) * TOKENS / 2
    return {
        "encode_flop": image,
        "encode_weights": HALF * (encoder + cross + 2 * embed * embed),
        "token_flop": 2 * weights + 2 * held + 2 * past,
        "token_weights": HALF * weights,
        "token_bytes": HALF * (held + past),
    }


def roofline(size: dict[str, float], batch: int, rates: dict[str, float]) -> float:
    """Captions per second that the card's rates allow, when nothing else costs anything."""
    flops, bandwidth = rates["flops"], rates["bytes_per_second"]
    encode = max(batch * size["encode_flop"] / flops, size["encode_weights"] / bandwidth)
    step = max(batch * size["token_flop"] / flops, (size["token_weights"] + batch * size["token_bytes"]) / bandwidth)
    return batch / (encode + TOKENS * step)


class Utilisation:
    """Mean of nvidia-smi's samples while it is open, per cent."""

    def __init__(self, device: int) -> None:
        command = ["nvidia-smi", "-i", str(device), "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.samples: list[float] = []
        self.thread = threading.Thread(target=self.read)

    def read(self) -> None:
        self.samples.extend(float(line) for line in self.process.stdout if line.strip().isdigit())

    def __enter__(self) -> "Utilisation":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.thread.join()

    def mean(self) -> float:
        return statistics.mean(self.samples) if self.samples else float("nan")


def ours(args: argparse.Namespace, work: pathlib.Path, batch: int, *options: str, cwd: pathlib.Path = ROOT, **variables: str) -> dict:
    command = [BENCH, work / "fp16", work / "images.u8", f"provider={args.provider}", f"device={args.device}", f"slots={batch}",
               f"max_tokens={TOKENS}", f"min_tokens={TOKENS - 1}", *options]
    out = subprocess.check_output(command, env=os.environ | variables | {"ORT_DYLIB_PATH": str(LIBRARY)}, cwd=cwd)
    return json.loads(out.splitlines()[-1])


def peer(args: argparse.Namespace, work: pathlib.Path, task: str, *options: str) -> dict:
    # -P: another script of this folder may have open_clip's name.
    command = [PYTHON, "-P", ROOT / "benchmarks" / "gpu_peer.py", task, args.model, work, str(args.device), *options]
    return json.loads(subprocess.check_output(command).splitlines()[-1])


def set_up(args: argparse.Namespace, work: pathlib.Path) -> None:
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    if not LIBRARY.exists():
        tensorrt = ["TENSORRT=1"] if args.provider == "tensorrt" else []
        subprocess.run(["make", "--quiet", "onnxruntime-gpu", *tensorrt], cwd=ROOT, check=True)
    cargo = ["cargo", "build", "--quiet", "--locked", "--release"]
    subprocess.run([*cargo, "--bin", "recaption"], cwd=ROOT, check=True)
    subprocess.run([*cargo, "-p", "recaption-onnx", "--example", "caption_bench"], cwd=ROOT, check=True)
    images = 2 * max(args.batches)
    subprocess.run([PYTHON, "-P", ROOT / "benchmarks" / "open_clip_peer.py", "make", args.model, work, str(images), "0", "0"],
                   check=True, stdout=subprocess.DEVNULL)
    subprocess.run([TARGET / "release" / "recaption", "export", "--checkpoint", work / "checkpoint", "--out", work / "fp16",
                    "--precision", "fp16"], check=True, env=os.environ | {"ORT_DYLIB_PATH": str(LIBRARY)}, stdout=subprocess.DEVNULL)


def operators(profile: pathlib.Path) -> list[tuple[str, str, float, int]]:
    """(operator, provider, milliseconds, calls) of ONNX Runtime's profile, most time first."""
    time, calls = collections.Counter(), collections.Counter()
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event.get("name", "").endswith("_kernel_time"):
            key = (event["args"].get("op_name", "?"), event["args"].get("provider", "?").removesuffix("ExecutionProvider"))
            time[key] += event["dur"] / 1000
            calls[key] += 1
    return [(*key, ms, calls[key]) for key, ms in time.most_common()]


def print_profile(args: argparse.Namespace, work: pathlib.Path, batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # ONNX Runtime times the launch of a node: launches must wait for their kernels, which makes this run slower.
        ours(args, work, batch, "profile=1", "seconds=0", cwd=pathlib.Path(folder), CUDA_LAUNCH_BLOCKING="1")
        for graph in ("image_encoder", "decoder", "select"):
            # The first: the encoder's rate is measured later, by a session of its own.
            found = sorted(pathlib.Path(folder).glob(f"recaption-{graph}_*.json"))
            rows = operators(found[0]) if found else []
            total = sum(row[2] for row in rows) or 1
            print(f"\n{graph}, batch {batch}: {'operator':<28} {'provider':<10} {'ms':>9} {'share':>6} {'calls':>7}")
            for operator, provider, ms, count in rows[:10]:
                print(f"{'':>{len(graph) + 9 + len(str(batch))}} {operator:<28} {provider:<10} {ms:>9.1f} {ms / total:>6.1%} {count:>7}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="coca_ViT-L-14")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--provider", default="cuda", choices=["cuda", "tensorrt"])
    parser.add_argument("--batches", default="64,128,256,512", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--seconds", default=10, type=int, help="of every measurement, at least")
    args = parser.parse_args()
    card = need_gpu(args.device)
    work = TARGET / "bench-gpu-work" / args.model
    set_up(args, work)
    config = json.loads((work / "checkpoint" / "open_clip_config.json").read_text())["model_cfg"]
    size, rates = sizes(config), peer(args, work, "rates")
    print(f"{card}: fp16 GEMM {rates['flops'] / 1e12:.0f} TFLOP/s, memory {rates['bytes_per_second'] / 1e9:.0f} GB/s (measured)")
    print(f"{args.model} fp16, {TOKENS} tokens, greedy, {args.provider}: {size['encode_flop'] / 1e9:.0f} GFLOP an image to encode, "
          f"{TOKENS * size['token_flop'] / 1e9:.0f} to decode")
    print(f"{'batch':>6} {'images/s':>10} {'GPU busy':>9} {'roofline':>10} {'share':>6} {'open_clip bf16':>15} {'ratio':>7}")
    for batch in args.batches:
        with Utilisation(args.device) as busy:
            mine = ours(args, work, batch, f"seconds={args.seconds}", "cache_bytes=60000000000")["captions_per_second"]
        bound, theirs = roofline(size, batch, rates), peer(args, work, "generate", str(batch), str(TOKENS))["captions_per_second"]
        print(f"{batch:>6} {mine:>10.1f} {busy.mean():>8.0f}% {bound:>10.1f} {mine / bound:>6.1%} {theirs:>15.1f} {mine / theirs:>6.1f}x")
        sys.stdout.flush()
    after = peer(args, work, "rates")
    print(f"the card's rates afterwards: {after['flops'] / 1e12:.0f} TFLOP/s, {after['bytes_per_second'] / 1e9:.0f} GB/s")
    print_profile(args, work, args.batches[min(2, len(args.batches) - 1)])


main()
