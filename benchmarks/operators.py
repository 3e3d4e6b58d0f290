"""Single operators that decisions in docs/src/decisions rest on, one thread of ONNX Runtime.

    target/bench-open-clip/bin/python benchmarks/operators.py        (onnxruntime 1.31.1, onnx, numpy: against_open_clip.py installs them)

1. Linear layers `[rows, in] -> [rows, out]` in int8: MatMulNBits with three block sizes, ours (a scale per row), and
   DynamicQuantizeMatMul (one scale for the whole batch), as speed over an fp32 Gemm.
2. Cross-attention of one query per image with keys and values `[N, Q, H * D]`, as the decoder has them, and `[N, H, Q, D]`: of
   coca_ViT-B-32 and of a BLIP base.
3. Attention of an image's tokens to each other: ONNX's operator, and ONNX Runtime's, which does not write down the scores of all pairs.
4. Quantising rows to 8 bits: magnitudes and multiples written down (five operators), and with a scale per row in QuantizeLinear.
"""
import statistics, time

import numpy as np, onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

LAYERS = [(32, 512, 1536), (32, 512, 2048), (32, 2048, 512), (32, 512, 49408), (64, 512, 2048), (400, 768, 3072), (400, 3072, 768)]
SECONDS, MICROSOFT = 0.5, "com.microsoft"
rng = np.random.default_rng(0)
node, tensor = helper.make_node, lambda name, value: numpy_helper.from_array(np.asarray(value), name)


def session(nodes, inputs, outputs, initializers=()):
    info = lambda values: [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values]
    return load(helper.make_graph(nodes, "operators", info(inputs), info(outputs), list(initializers)))


def load(graph):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)], ir_version=11)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def milliseconds(run) -> float:
    run()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < SECONDS or len(times) < 5:
        at = time.perf_counter()
        run()
        times.append(time.perf_counter() - at)
    return statistics.median(times) * 1e3


def blocks(w, size):
    parts = w.reshape(len(w), -1, size)
    scale = np.abs(parts).max(-1) / 127
    values = (np.clip(np.round(parts / scale[..., None]), -127, 127) + 128).astype(np.uint8)
    attributes = dict(K=w.shape[1], N=len(w), bits=8, block_size=size, accuracy_level=4, domain=MICROSOFT)
    return [node("MatMulNBits", ["x", "q", "s"], ["t"], **attributes), node("Add", ["t", "b"], ["y"])], [
        tensor("q", values), tensor("s", scale.astype("f"))]


def integers(w):
    scale = (np.abs(w).max(1) / 127).astype("f")
    return [tensor("q", np.clip(np.round(w / scale[:, None]), -127, 127).astype(np.int8).T.copy()), tensor("s", scale)]


CONSTANTS = [tensor(name, value) for name, value in {
    "axis": np.array([-1]), "none": np.float32(0), "tiny": np.float32(1e-20), "levels": np.float32(127), "level": np.float32(1 / 127),
    "one": np.float32(1), "zero": np.uint8(128)}.items()]


def quantised(in_one):
    """`x` -> `v` u8 and its scales `r`; `in_one` as onnx/src/export/linear.rs emits it."""
    if in_one:
        return [node("ReduceMax", ["x", "axis"], ["m"], keepdims=1), node("ReduceMin", ["x", "axis"], ["l"], keepdims=1),
                node("Sub", ["none", "l"], ["a"]), node("Max", ["m", "a", "tiny"], ["n"]), node("Mul", ["n", "level"], ["r"]),
                node("Squeeze", ["r", "axis"], ["rows"]), node("Shape", ["rows"], ["count"]), node("Expand", ["zero", "count"], ["zeros"]),
                node("QuantizeLinear", ["x", "rows", "zeros"], ["v"], axis=0)]
    return [node("Abs", ["x"], ["a"]), node("ReduceMax", ["a", "axis"], ["m"], keepdims=1), node("Max", ["m", "tiny"], ["n"]),
            node("Div", ["levels", "n"], ["i"]), node("Mul", ["x", "i"], ["u"]), node("QuantizeLinear", ["u", "one", "zero"], ["v"]),
            node("Mul", ["n", "level"], ["r"])]


def per_row(w):
    """As onnx/src/export/linear.rs emits it."""
    nodes = quantised(True) + [node("MatMulIntegerToFloat", ["v", "q", "one", "s", "zero"], ["t"], domain=MICROSOFT),
                               node("Mul", ["t", "r"], ["p"]), node("Add", ["p", "b"], ["y"])]
    return nodes, integers(w) + CONSTANTS


def linear_layers() -> None:
    print(f"{'rows, in, out':<18} {'fp32 ms':>8}   speed over fp32: blocks of 32, 128, 256 | a scale per row | one for the batch")
    for m, k, n in LAYERS:
        w, bias, x = (rng.standard_normal((n, k)) / k**0.5).astype("f"), rng.standard_normal(n).astype("f"), rng.standard_normal((m, k)).astype("f")
        variants = [([node("Gemm", ["x", "w", "b"], ["y"], transB=1)], [tensor("w", w)])] + [blocks(w, size) for size in (32, 128, 256)] + [
            per_row(w), ([node("DynamicQuantizeMatMul", ["x", "q", "s", "", "b"], ["y"], domain=MICROSOFT)], integers(w))]
        times = []
        for nodes, weights in variants:
            s = session(nodes, [("x", [m, k])], [("y", [m, n])], [*weights, tensor("b", bias)])
            times.append(milliseconds(lambda: s.run(None, {"x": x})))
        fast = [f"{times[0] / t:.2f}" for t in times[1:]]
        print(f"{m:>4}, {k:>5}, {n:>6} {times[0]:>8.3f}   {', '.join(fast[:3])} | {fast[3]} | {fast[4]}")


def cross_attention(images=32, heads=8, size=64, tokens=255, layers=4) -> None:
    """Several layers, so that no keys stay in a cache."""
    width, shapes = heads * size, {"3": [images, tokens, heads * size], "4": [images, heads, tokens, size]}
    for rank, shape in shapes.items():
        nodes, x = [], "q"
        for i in range(layers):
            out = "y" if i + 1 == layers else f"x{i}"
            if rank == "3":
                nodes.append(node("Attention", [x, f"k{i}", f"v{i}"], [out], q_num_heads=heads, kv_num_heads=heads))
            else:
                nodes += [node("Reshape", [x, "split"], [f"s{i}"]), node("Attention", [f"s{i}", f"k{i}", f"v{i}"], [f"a{i}"]),
                          node("Reshape", [f"a{i}", "join"], [out])]
            x = out
        # One query per image: [N, 1, H * D] and [N, H, 1, D] are the same bytes.
        constants = [tensor("split", np.array([images, heads, 1, size])), tensor("join", np.array([images, 1, width]))]
        names = [f"{part}{i}" for i in range(layers) for part in "kv"]
        s = session(nodes, [("q", [images, 1, width])] + [(name, shape) for name in names], [("y", [images, 1, width])], constants)
        binding = s.io_binding()
        for name, dims in [("q", [images, 1, width])] + [(name, shape) for name in names]:
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(rng.standard_normal(dims).astype("f")))
        binding.bind_output("y")
        t = milliseconds(lambda: s.run_with_iobinding(binding))
        print(f"cross-attention of {images} images of {tokens} tokens, keys and values of rank {rank}: {t:.2f} ms, {2 * layers * images * tokens * width * 4 / t / 1e6:.1f} GB/s")


def image_attention() -> None:
    for images, tokens, heads, size in [(8, 50, 12, 64), (8, 197, 12, 64), (8, 256, 16, 64), (4, 577, 12, 64), (4, 577, 16, 64), (2, 729, 16, 72)]:
        shape, times = [images, tokens, heads * size], []
        for operator in (node("Attention", ["q", "k", "v"], ["y"], q_num_heads=heads, kv_num_heads=heads),
                         node("MultiHeadAttention", ["q", "k", "v"], ["y"], num_heads=heads, domain=MICROSOFT)):
            s = session([operator], [(name, shape) for name in "qkv"], [("y", shape)])
            feed = {name: rng.standard_normal(shape).astype("f") for name in "qkv"}
            times.append(milliseconds(lambda: s.run(None, feed)))
        print(f"attention of {images} images, {heads} heads of {size}, {tokens:>3} tokens: ONNX's {times[0]:.2f} ms, ONNX Runtime's {times[1]:.2f}: "
              f"{times[1] / times[0]:.2f} of the time")


def quantising() -> None:
    for rows, width in [(2308, 768), (2308, 3072), (577, 3072), (32, 768)]:
        x, times = rng.standard_normal((rows, width)).astype("f"), []
        for in_one in (False, True):
            # An output of bytes.
            graph = helper.make_graph(quantised(in_one), "operators", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])],
                                      [helper.make_tensor_value_info("v", TensorProto.UINT8, [rows, width])], CONSTANTS)
            s = load(graph)
            times.append(milliseconds(lambda: s.run(None, {"x": x})))
        print(f"quantising {rows} rows of {width}: {times[0]:.3f} ms, with a scale per row {times[1]:.3f}: {times[1] / times[0]:.2f} of the time")


linear_layers()
cross_attention()
cross_attention(images=8, heads=12, tokens=577, layers=12)
image_attention()
quantising()
