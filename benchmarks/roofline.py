"""Achieved FLOP/s of each graph over a large GEMM's on the same machine, in the same run, and the graphs' own profiles.

    python benchmarks/roofline.py MODEL [--threads 1] [--rows 32] [--images 8] [--profile]

Needs onnxruntime 1.31.1, onnx and numpy, as benchmarks/against_open_clip.py installs them. FLOPs are counted from the model's
sizes: two per multiply-add of every matrix product and attention, nothing else. The GEMM is [2048, 2048] by [2048, 2048] in
fp32 on ONNX Runtime with as many threads. A step of the decoder also reads every weight and every image's cross keys and values
from memory; the time that takes at the bandwidth measured by summing a large array is printed beside its arithmetic. Turns are
interleaved; medians are printed.
"""
import argparse, collections, json, pathlib, statistics, tempfile, time

import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto, helper

GEMM = 2048
SECONDS = 1.0


def options(args: argparse.Namespace, profile: str | None = None) -> ort.SessionOptions:
    o = ort.SessionOptions()
    o.intra_op_num_threads = args.threads
    o.add_session_config_entry("session.intra_op.allow_spinning", "0")
    o.log_severity_level = 3
    if profile:
        o.enable_profiling, o.profile_file_prefix = True, profile
    return o


def gemm(args: argparse.Namespace):
    info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [GEMM, GEMM])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [GEMM, GEMM], np.random.rand(GEMM, GEMM).astype("f").tobytes(), raw=True)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "gemm", [info("x")], [info("y")], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), options(args), providers=["CPUExecutionProvider"])
    x = np.random.rand(GEMM, GEMM).astype("f")
    return lambda: session.run(None, {"x": x}), 2 * GEMM**3


class Flops:
    """FLOPs of coca graphs, from the checkpoint's configuration."""

    def __init__(self, model: pathlib.Path, config: dict):
        self.spec = json.loads((model / "model.json").read_text())["dimensions"]
        v, t, m = config["vision_cfg"], config["text_cfg"], config["multimodal_cfg"]
        self.e, self.v, self.t, self.m = config["embed_dim"], v, t, m
        self.queries, self.vocab = self.spec["image_tokens"] + 1, self.spec["vocab_size"]

    def image(self) -> int:
        w, patch, size = self.v["width"], self.v["patch_size"], self.v["image_size"]
        grid, mlp = size // patch, int(w * self.v.get("mlp_ratio", 4))
        n = grid * grid + 1
        tower = 2 * grid * grid * patch * patch * 3 * w + self.v["layers"] * (2 * n * (4 * w * w + 2 * w * mlp) + 4 * n * n * w)
        pool = 2 * 2 * n * w * self.e + 4 * self.queries * n * self.e + 2 * self.queries * self.e**2
        cross = self.m["layers"] * 2 * 2 * (self.queries - 1) * self.e * self.m["width"]
        return tower + pool + cross + 2 * self.e * self.e

    def step(self, length: int) -> int:
        """One token that sees `length` tokens."""
        block = lambda w: 2 * (4 * w * w + 8 * w * w) + 4 * length * w
        w = self.m["width"]
        cross = 2 * (2 * w * w + 8 * w * w) + 4 * (self.queries - 1) * w
        return self.t["layers"] * block(self.t["width"]) + self.m["layers"] * (block(w) + cross) + 2 * w * self.vocab

    def text(self, tokens: int) -> int:
        w = self.t["width"]
        return self.t["layers"] * (2 * tokens * 12 * w * w + 4 * tokens * tokens * w)


def image_encoder(args, folder, flops, profile=None):
    session = ort.InferenceSession(folder / "image_encoder.onnx", options(args, profile), providers=["CPUExecutionProvider"])
    size = flops.v["image_size"]
    pixels = np.random.randint(0, 256, (args.images, size, size, 3), dtype=np.uint8)
    return lambda: session.run(None, {"pixels": pixels}), args.images * flops.image(), session


def text_encoder(args, folder, flops, profile=None):
    session = ort.InferenceSession(folder / "text_encoder.onnx", options(args, profile), providers=["CPUExecutionProvider"])
    ids = np.random.randint(1, flops.vocab - 2, (args.images, 32))
    ids[:, -1] = 0
    return lambda: session.run(None, {"ids": ids}), args.images * flops.text(33), session


def decoder(args, folder, flops, profile=None, length=32, at=16):
    session = ort.InferenceSession(folder / "decoder.onnx", options(args, profile), providers=["CPUExecutionProvider"])
    binding, held = session.io_binding(), []
    sizes = {"rows": args.rows, "images": args.rows, "cache": length}
    for value in session.get_inputs():
        shape = [sizes.get(d, d) for d in value.shape]
        if value.type == "tensor(int64)":
            array = np.full(shape, at if value.name == "positions" else 5, dtype=np.int64)
        else:
            array = (np.random.standard_normal(shape) * 0.1).astype("f")
        tensor = ort.OrtValue.ortvalue_from_numpy(array)
        held.append(tensor)
        binding.bind_ortvalue_input(value.name, tensor)
        if value.name.startswith("past_"):
            binding.bind_ortvalue_output(value.name.replace("past_", "present_"), tensor)
    logits = ort.OrtValue.ortvalue_from_numpy(np.zeros((args.rows, flops.vocab), "f"))
    held.append(logits)
    binding.bind_ortvalue_output("logits", logits)
    run = lambda: session.run_with_iobinding(binding)
    run.held = held
    return run, args.rows * flops.step(at + 1), session


def weight_bytes(folder: pathlib.Path) -> int:
    """What a step reads of the decoder's weights; of the embeddings it reads a few rows."""
    graph = onnx.load(folder / "decoder.onnx", load_external_data=False).graph
    length = lambda t: int(next((e.value for e in t.external_data if e.key == "length"), 0))
    return sum(length(t) for t in graph.initializer if "embedding" not in t.name)


def bandwidth() -> float:
    """Bytes per second of one thread that reads an array larger than the caches."""
    array, times = np.ones(64 << 20, "f"), []
    for _ in range(5):
        began = time.perf_counter()
        array.sum()
        times.append(time.perf_counter() - began)
    return array.nbytes / statistics.median(times)


GRAPHS = {"image encoder": image_encoder, "decoder": decoder, "text encoder": text_encoder}


def rate(run, flops: int) -> float:
    """GFLOP/s, median over SECONDS."""
    run()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < SECONDS or len(times) < 3:
        at = time.perf_counter()
        run()
        times.append(time.perf_counter() - at)
    return flops / statistics.median(times) / 1e9


def print_profile(args, folder, flops, name, build) -> None:
    scratch = tempfile.TemporaryDirectory()
    run, _, session = build(args, folder, flops, profile=f"{scratch.name}/profile")
    for _ in range(10):
        run()
    path = pathlib.Path(session.end_profiling())
    total = collections.Counter()
    for event in json.loads(path.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            total[event["args"]["op_name"]] += event["dur"]
    scratch.cleanup()
    whole = sum(total.values())
    print(f"  {name}: " + ", ".join(f"{op} {100 * t / whole:.0f} %" for op, t in total.most_common(7)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="the open_clip checkpoint it was exported from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    flops = Flops(args.model, json.loads((args.checkpoint / "open_clip_config.json").read_text())["model_cfg"])
    print(f"per caption of 30 tokens: encode {flops.image() / 1e9:.2f} GFLOP, decode {sum(map(flops.step, range(1, 31))) / 1e9:.2f} GFLOP")
    large, runs = gemm(args), {name: build(args, args.model, flops)[:2] for name, build in GRAPHS.items()}
    rates = collections.defaultdict(list)
    for _ in range(args.rounds):
        top = rate(*large)
        rates["gemm"].append(top)
        for name, (run, count) in runs.items():
            value = rate(run, count)
            rates[name].append(value)
            rates[name, "share"].append(value / top)
    print(f"{'':<14} {'GFLOP/s':>9} {'of the GEMM':>12}   {args.threads} thread(s), medians of {args.rounds} interleaved turns")
    print(f"{'large GEMM':<14} {statistics.median(rates['gemm']):>9.1f}")
    for name in runs:
        print(f"{name:<14} {statistics.median(rates[name]):>9.1f} {100 * statistics.median(rates[name, 'share']):>10.0f} %")
    step = args.rows * flops.step(17)
    reads = weight_bytes(args.model) + args.rows * flops.m["layers"] * 2 * (flops.queries - 1) * flops.m["width"] * 4
    arithmetic, memory = step / statistics.median(rates["gemm"]) / 1e6, reads / bandwidth() * 1e3
    took = step / statistics.median(rates["decoder"]) / 1e6
    print(f"a step of {args.rows} rows takes {took:.0f} ms: its arithmetic at the GEMM's rate {arithmetic:.0f} ms, its {reads / 1e6:.0f} MB "
          f"at one thread's bandwidth {memory:.0f} ms; both after another would be {100 * (arithmetic + memory) / took:.0f} % of it")
    if args.profile:
        print("time by operator:")
        for name, build in GRAPHS.items():
            print_profile(args, args.model, flops, name, build)


main()
