"""Makes an output of many rows, without captioning anything, and measures `recaption report` of it.

    python3 scripts/report_scale.py [--rows 1000000] [--shards 100] [--keep DIR]

Prints the seconds and the peak of the program's resident memory (VmHWM), and the size of the page. Fails above 60 s, 500 MiB or
20 MB. The rows have the output schema and are committed like a run's; their inputs do not exist, so that the page has no images.
"""
import argparse, hashlib, json, pathlib, random, subprocess, sys, tempfile, time

import soak

MAX_SECONDS, MAX_MIB, MAX_MB = 60, 500, 20
POLL_SECONDS = 0.05
FINGERPRINT = f"{'1' * 16}-{'2' * 16}"
COLOURS = "red green blue yellow black white brown orange grey pink".split()
THINGS = "dog cat car house tree bottle chair boat bicycle horse bird table street flower child".split()
PLACES = "on a table|in a field|next to a wall|in front of a building|on the street|near the water|under a tree".split("|")
OPENINGS = ["a photo of", "a close up of", "an image of", "a", "the", "two people and"]
REASONS = ["below_similarity", "corrupt_image", "missing_image", "caption_rule"]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def captions(rng: random.Random, count: int) -> list[str]:
    return [f"{rng.choice(OPENINGS)} {rng.choice(COLOURS)} {rng.choice(THINGS)} and a {rng.choice(COLOURS)} {rng.choice(THINGS)} "
            f"{rng.choice(PLACES)}" for _ in range(count)]


def originals(rng: random.Random, count: int) -> list[str | None]:
    # A fifth has none; the others name things that nobody else names.
    return [None if rng.random() < 0.2 else f"{rng.choice(THINGS)} IMG_{rng.randrange(10**7)} {rng.choice(COLOURS)} sale {rng.randrange(10**4)} "
            f"{rng.choice(['jpg', 'stock photo', 'free shipping', 'wallpaper'])}" for _ in range(count)]


def make(out: pathlib.Path, rows: int, shards: int) -> None:
    import pyarrow as pa, pyarrow.parquet as pq
    candidate = pa.struct([pa.field("text", pa.string(), False), pa.field("similarity", pa.float32(), False),
                           pa.field("logprob", pa.float32(), False)])
    schema = pa.schema([
        pa.field("key", pa.string(), False), pa.field("shard", pa.string(), False), pa.field("caption", pa.string(), False),
        pa.field("similarity", pa.float32(), False), pa.field("org_caption", pa.string()), pa.field("org_similarity", pa.float32()),
        pa.field("candidates", pa.list_(pa.field("item", candidate, False)), False), pa.field("itm", pa.float32()),
        pa.field("width", pa.int32(), False), pa.field("height", pa.int32(), False), pa.field("sha256", pa.string(), False),
        pa.field("url", pa.string()), pa.field("meta", pa.string())])
    rejects_schema = pa.schema([
        pa.field("key", pa.string(), False), pa.field("shard", pa.string(), False), pa.field("reason", pa.string(), False),
        pa.field("detail", pa.string(), False), pa.field("caption", pa.string()), pa.field("similarity", pa.float32()),
        pa.field("org_caption", pa.string())])
    for folder in ("captions", "rejects", "_recaption/shards"):
        (out / folder).mkdir(parents=True)
    rng = random.Random(1)
    for n in range(shards):
        url, count = f"s3://images/{n:05}.tar", rows // shards
        keys = [f"{n:05}{i:06}" for i in range(count)]
        texts, old = captions(rng, count), originals(rng, count)
        scores = [min(1.0, max(-1.0, rng.gauss(0.31, 0.05))) for _ in keys]
        table = pa.table([
            keys, [url] * count, texts, scores, old, [None if text is None else rng.gauss(0.24, 0.07) for text in old],
            [[{"text": text, "similarity": score, "logprob": -9.0}] * 4 for text, score in zip(texts, scores)], [None] * count,
            [rng.choice([256, 320, 512, 640, 1024]) for _ in keys], [rng.choice([256, 480, 768]) for _ in keys],
            [digest(key) for key in keys], [f"https://images.example/{key}.jpg" for key in keys], [None] * count], schema=schema)
        lost = count // 20
        reasons = [rng.choice(REASONS) for _ in range(lost)]
        rejects = pa.table([
            [f"{n:05}x{i:05}" for i in range(lost)], [url] * lost, reasons, ["similarity 0.1 < 0.2"] * lost, captions(rng, lost),
            [0.1] * lost, [None] * lost], schema=rejects_schema)
        shard, record = f"{n:05}-{digest(url)[:16]}", {}
        for name, part in (("captions", table), ("rejects", rejects)):
            path = f"{name}/part-{shard}-{digest(name + url)[:16]}.parquet"
            pq.write_table(part, out / path, compression="zstd", write_page_index=True)
            record[name] = {"path": path, "rows": part.num_rows, "bytes": (out / path).stat().st_size}
        counts = {"read": count + lost, "captioned": count, "rejected": lost, "texts_cut": 0,
                  "reasons": {reason: reasons.count(reason) for reason in set(reasons)}}
        record |= {"format": 1, "shard": url, "size": 1, "etag": None, "fingerprint": FINGERPRINT, "counts": counts, "damaged": None,
                   "configuration": {"caption.candidates": "4"}, "model": digest("model")}
        (out / f"_recaption/shards/{shard}.{FINGERPRINT}.json").write_text(json.dumps(record))


def measure(call: list[str], env: dict[str, str]) -> tuple[dict, float, float]:
    """Runs the program; its report, seconds, and peak memory in MiB."""
    began, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as stdout:
        process = subprocess.Popen(call, env=env, stdout=stdout)
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
            except OSError:
                pass
            time.sleep(POLL_SECONDS)
        took = time.monotonic() - began
        stdout.seek(0)
        if process.returncode:
            sys.exit(f"exit code {process.returncode}: {' '.join(call)}")
        return json.loads(stdout.read()), took, peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--keep", type=pathlib.Path, help="make the output there, unless it is there, and leave it")
    options = parser.parse_args()
    soak.in_venv()
    with tempfile.TemporaryDirectory(dir=soak.TARGET) as scratch:
        out = options.keep or pathlib.Path(scratch) / "out"
        if not out.exists():
            began = time.monotonic()
            make(out, options.rows, options.shards)
            print(f"{options.rows} rows in {options.shards} shards made in {time.monotonic() - began:.0f} s", flush=True)
        page = pathlib.Path(scratch) / "report.html"
        call = [str(soak.PROGRAM), "--log-format", "json", "report", str(out), "--out", str(page)]
        report, took, peak = measure(call, soak.environment())
        print(f"{report['captions']} captions, {report['rejects']} rejects: {took:.1f} s, peak {peak:.0f} MiB, {report['bytes'] / 1e6:.2f} MB")
        if took > MAX_SECONDS or peak > MAX_MIB or report["bytes"] > MAX_MB * 1_000_000:
            sys.exit(f"more than {MAX_SECONDS} s, {MAX_MIB} MiB or {MAX_MB} MB")


main()
