"""Milliseconds per image of image encoders, by images per call, on one thread of ONNX Runtime.

    target/bench-open-clip/bin/python benchmarks/encoder_calls.py [--operators] MODEL...        (onnxruntime 1.31.1 and numpy)

MODELs are folders of `recaption export`. Each number is the least of three calls on noise. `--operators` adds the operators of a call of one
image that take most of its time. The number of images per call that a run takes on a CPU is in onnx/src/runtime/execution.rs.
"""
import argparse, collections, json, pathlib, tempfile, time

import numpy as np, onnxruntime as ort


def load(folder: pathlib.Path, profile: str | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(str(folder / "image_encoder.onnx"), options, providers=["CPUExecutionProvider"])


def milliseconds(session: ort.InferenceSession, images: int) -> float:
    side = session.get_inputs()[0].shape[1]
    feed = {"pixels": np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)}
    session.run(None, feed)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - began)
    return min(times) * 1e3 / images


def operators(folder: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        session = load(folder, f"{scratch}/profile")
        milliseconds(session, 1)
        events = json.loads(pathlib.Path(session.end_profiling()).read_text())
    took = collections.Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            took[event["args"]["op_name"]] += event["dur"] / 4e3
    print("    " + ", ".join(f"{name} {ms:.1f}" for name, ms in took.most_common(12)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args()
    for folder in args.models:
        session, spec = load(folder), json.loads((folder / "model.json").read_text())
        times = ", ".join(f"{images}: {milliseconds(session, images):.1f}" for images in args.calls)
        print(f"{folder.name}, {spec['precision']}, {spec['dimensions'].get('encoder_tokens')} tokens: ms per image by images per call {times}", flush=True)
        if args.operators:
            operators(folder)


main()
