"""How long Pillow takes from file bytes to the model's pixels, on one thread: the baseline of decode_bench.

    pip install pillow
    python benchmarks/pillow_decode.py [--seconds 1.0] IMAGE...

Prints milliseconds per image for every file as JSON (mean over about a second, and the fastest call), for open_clip's
evaluation transform: convert to RGB, shortest side to 224, bicubic, centre crop.
"""
import argparse, io, json, time
from PIL import Image

SIZE = 224


def prepare(raw):
    """File bytes to an RGB image of SIZE x SIZE: what torchvision's Resize and CenterCrop do with Pillow."""
    image = Image.open(io.BytesIO(raw)).convert("RGB")
    w, h = image.size
    if w <= h:
        image = image.resize((SIZE, int(SIZE * h / w)), Image.BICUBIC)
    else:
        image = image.resize((int(SIZE * w / h), SIZE), Image.BICUBIC)
    left, top = round((image.width - SIZE) / 2), round((image.height - SIZE) / 2)
    return image.crop((left, top, left + SIZE, top + SIZE)).tobytes()


def measure(raw, seconds):
    prepare(raw)
    best, calls, start = float("inf"), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call = time.perf_counter()
        prepare(raw)
        best = min(best, time.perf_counter() - call)
        calls += 1
    return {"ms": (time.perf_counter() - start) * 1e3 / calls, "best_ms": best * 1e3, "calls": calls}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()
    print(json.dumps({path: measure(open(path, "rb").read(), args.seconds) for path in args.images}))
