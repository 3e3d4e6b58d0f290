"""What gpu.py counts, computes and samples: a model's operations and bytes, bounds from a card's rates, utilisation, profiles."""
import collections, json, pathlib, statistics, subprocess, threading

# Bytes of a number in fp16, and of a logit.
HALF, LOGIT = 2, 4


def sizes(config: dict, dimensions: dict, tokens: int) -> dict[str, float]:
    """Floating-point operations and bytes (fp16) of one image's encoding and of one token, from open_clip's configuration and the
    exported model's dimensions."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    embed, patches = config["embed_dim"], (vision["image_size"] // vision["patch_size"]) ** 2
    wide, seen = vision["width"], patches + 1
    # Weights of one block: queries, keys, values, output, and an MLP four times as wide.
    block = lambda w: 4 * w * w + 8 * w * w
    encoder = vision["layers"] * block(wide)
    scores = vision["layers"] * 4 * seen * seen * wide
    queries = vision.get("n_queries", vision.get("attn_pooler_queries", 256))
    pooler = 2 * (2 * seen * wide * embed + queries * embed * embed * 2) + 4 * queries * seen * embed if vision.get("attentional_pool") else 0
    layers, width = dimensions["decoder_layers"], dimensions["decoder_heads"] * dimensions["decoder_head_dim"]
    # Cross keys and values of every layer, of the tokens that the decoder attends to.
    attended, cross = dimensions["image_tokens"], layers * 2 * embed * width
    image = 2 * seen * encoder + scores + 2 * patches * vision["patch_size"] ** 2 * 3 * wide + pooler + 2 * attended * cross
    # One token: the text tower, self-attention blocks, cross-attention blocks (keys and values are there), the vocabulary.
    weights = text["layers"] * block(text["width"]) + layers * (block(width) + 2 * width * width + 8 * width * width)
    weights += width * text["vocab_size"]
    held = layers * 2 * attended * width
    past = 2 * (text["layers"] * text["width"] + layers * width) * tokens / 2
    return {
        "encode_flop": image,
        "encode_weights": HALF * (encoder + cross + 2 * embed * embed),
        "token_flop": 2 * weights + 2 * held + 2 * past,
        "token_weights": HALF * weights,
        "token_bytes": HALF * (held + past),
        "cross_bytes": HALF * held,
    }


def encode_bound(size: dict[str, float], batch: int, rates: dict[str, float]) -> float:
    """Seconds that encoding a batch takes at least."""
    return max(batch * size["encode_flop"] / rates["flops"], size["encode_weights"] / rates["bytes_per_second"])


def step_bound(size: dict[str, float], batch: int, rates: dict[str, float]) -> float:
    """Seconds that a decoding step of a batch takes at least."""
    moved = size["token_weights"] + batch * size["token_bytes"]
    return max(batch * size["token_flop"] / rates["flops"], moved / rates["bytes_per_second"])


def roofline(size: dict[str, float], batch: int, rates: dict[str, float], tokens: int) -> float:
    """Captions per second that the card's rates allow, when nothing but encoding and decoding costs anything."""
    return batch / (encode_bound(size, batch, rates) + tokens * step_bound(size, batch, rates))


def part_bounds(size: dict[str, float], batch: int, rates: dict[str, float], spec: dict) -> dict[str, float]:
    """Seconds that each part takes at least: encoding and copying of a batch, decoding and selecting of a step."""
    logits = batch * spec["dimensions"]["vocab_size"] * LOGIT
    return {
        "encode": encode_bound(size, batch, rates),
        "decode": step_bound(size, batch, rates),
        # All logits are read once.
        "select": logits / rates["bytes_per_second"],
        # Keys and values are read once and written once.
        "copy": 2 * batch * size["cross_bytes"] / rates["bytes_per_second"],
    }


class Utilisation:
    """Mean of nvidia-smi's samples of a GPU while it is open, per cent; not a number without a GPU."""

    def __init__(self, device: int | None) -> None:
        self.samples: list[float] = []
        self.process = None
        if device is not None:
            command = ["nvidia-smi", "-i", str(device), "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read)

    def read(self) -> None:
        if self.process:
            self.samples.extend(float(line) for line in self.process.stdout if line.strip().isdigit())

    def __enter__(self) -> "Utilisation":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.terminate()
        self.thread.join()

    def mean(self) -> float:
        return statistics.mean(self.samples) if self.samples else float("nan")


def operators(profile: pathlib.Path) -> list[tuple[str, str, float, int]]:
    """(operator, provider, milliseconds, calls) of ONNX Runtime's profile, most time first."""
    time, calls = collections.Counter(), collections.Counter()
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event.get("name", "").endswith("_kernel_time"):
            key = (event["args"].get("op_name", "?"), event["args"].get("provider", "?").removesuffix("ExecutionProvider"))
            time[key] += event["dur"] / 1000
            calls[key] += 1
    return [(*key, ms, calls[key]) for key, ms in time.most_common()]
