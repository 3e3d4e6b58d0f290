"""Reads inputs that other programs wrote, and checks that the rows are those of a webdataset tar of the same pictures.

    python3 -m venv target/formats-venv && target/formats-venv/bin/pip install img2dataset datasets pillow pyarrow
    cargo build --release && target/formats-venv/bin/python scripts/check_formats.py

img2dataset fetches the pictures from a web server on loopback and writes them in both of its formats; Hugging Face's `datasets`
writes them as Parquet and as an image folder; pyarrow writes what else people have. Not part of `make test`: the libraries are large.
"""
import functools, http.server, io, json, os, pathlib, shutil, subprocess, sys, tarfile, threading

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target/check-formats"
RECAPTION = ROOT / "target/release/recaption"
SCENES = 200
COLUMNS = ["caption", "similarity", "org_caption", "org_similarity", "candidates", "width", "height", "sha256"]


def recaption(*arguments: str) -> None:
    env = {**os.environ, "ORT_DYLIB_PATH": os.environ.get("ORT_DYLIB_PATH", str(ROOT / "target/onnxruntime/lib/libonnxruntime.so"))}
    done = subprocess.run([RECAPTION, *map(str, arguments)], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr[-3000:]}")


def rows(name: str, *inputs, key=lambda row: row["key"], settings=()) -> dict:
    """What a run makes of the inputs, by `key`."""
    out = WORK / "out" / name
    arguments = [a for i in inputs for a in ("--input", i)] + [a for s in settings for a in ("--set", s)]
    recaption("run", "--model", WORK / "model", *arguments, "--output", out)
    rejects = ds.dataset(out / "rejects").to_table().to_pylist()
    assert not rejects, f"{name}: {rejects[:3]}"
    found = {key(row): {c: row[c] for c in COLUMNS} for row in ds.dataset(out / "captions").to_table().to_pylist()}
    return found


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    recaption("export", "--checkpoint", ROOT / "onnx/models/coca-scenes-base", "--out", WORK / "model")
    recaption("scenes", "--out", WORK / "tar", "--shards", 1, "--samples", SCENES)
    samples: dict[str, dict] = {}
    with tarfile.open(WORK / "tar/00000.tar") as tar:
        for member in tar:
            key, suffix = member.name.split(".", 1)
            samples.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    wanted = rows("tar", WORK / "tar")
    assert len(wanted) == SCENES

    def check(name: str, found: dict, expected=wanted) -> None:
        assert found.keys() == expected.keys(), f"{name}: other keys: {sorted(found)[:3]} and {sorted(expected)[:3]}"
        different = [k for k in expected if found[k] != expected[k]]
        assert not different, f"{name}: {len(different)} rows differ, {different[0]}: {found[different[0]]} and {expected[different[0]]}"
        print(f"{name:<36} {len(found)} rows, all as from the tar")

    web = WORK / "web"
    web.mkdir()
    for key, parts in samples.items():
        (web / f"{key}.jpg").write_bytes(parts["jpg"])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=web)
    handler.log_message = lambda *_: None
    http.server.SimpleHTTPRequestHandler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    urls = pa.table({"url": [f"{base}/{k}.jpg" for k in samples], "caption": [p["txt"].decode() for p in samples.values()]})
    pq.write_table(urls, WORK / "urls.parquet")

    # img2dataset numbers its samples; the URL identifies them.
    by_address = lambda row: row["url"].rsplit("/", 1)[1].removesuffix(".jpg")
    # Its parquet writer has no resizing of its own to switch off, but these bytes are left as they are.
    for form in ("webdataset", "parquet"):
        out = WORK / f"img2dataset-{form}"
        code = ("import img2dataset as i; i.download("
                f"url_list={str(WORK / 'urls.parquet')!r}, input_format='parquet', url_col='url', caption_col='caption', "
                f"output_folder={str(out)!r}, output_format={form!r}, resize_mode='no', disable_all_reencoding=True, "
                "processes_count=1, thread_count=8, number_sample_per_shard=80, enable_wandb=False)")
        program = f"if __name__ == '__main__':\n    {code}\n"
        (WORK / "download.py").write_text(program)
        done = subprocess.run([sys.executable, WORK / "download.py"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        kinds = sorted(p.suffix for p in out.iterdir())
        found = rows(f"img2dataset-{form}", f"{out}/*.{'tar' if form == 'webdataset' else 'parquet'}", key=by_address)
        check(f"img2dataset {form} ({kinds.count('.tar') or kinds.count('.parquet')} shards)", found)
    # Beside the tars lie Parquet files about them, which are no input.
    check("img2dataset webdataset, the folder", rows("img2dataset-folder", WORK / "img2dataset-webdataset", key=by_address))
    check("its list, fetched by ourselves", rows("urls", WORK / "urls.parquet", key=by_address, settings=["fetch.allow_private=true"]))
    pa.csv.write_csv(urls, WORK / "urls.csv")
    check("the same as CSV by pyarrow", rows("csv", WORK / "urls.csv", key=by_address, settings=["fetch.allow_private=true"]))
    server.shutdown()

    import datasets

    images = [{"bytes": p["jpg"], "path": f"{k}.jpg"} for k, p in samples.items()]
    texts = [p["txt"].decode() for p in samples.values()]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(2)})
    data = datasets.Dataset.from_dict({"image": images, "text": texts, "label": [0] * SCENES}, features=features)
    data.to_parquet(WORK / "hf.parquet", batch_size=37)
    check("datasets, to_parquet", rows("hf", WORK / "hf.parquet"))
    data = data.rename_column("image", "photograph")
    data.to_parquet(WORK / "hf-renamed.parquet")
    check("datasets, another name for the image", rows("hf-renamed", WORK / "hf-renamed.parquet"))
    folder = WORK / "imagefolder/train"
    folder.mkdir(parents=True)
    with open(folder / "metadata.jsonl", "w") as lines:
        for key, parts in samples.items():
            (folder / f"{key}.jpg").write_bytes(parts["jpg"])
            lines.write(json.dumps({"file_name": f"{key}.jpg", "text": parts["txt"].decode()}) + "\n")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(WORK / "imagefolder"), split="train", cache_dir=str(WORK / "cache"))
    assert sorted(loaded["text"]) == sorted(texts), "datasets itself reads this folder"
    check("datasets, imagefolder", rows("imagefolder", WORK / "imagefolder"))

    for name, options in {
        "snappy": {}, "zstd": {"compression": "zstd"}, "gzip": {"compression": "gzip"}, "brotli": {"compression": "brotli"},
        "lz4": {"compression": "lz4"}, "none": {"compression": "none"}, "version 1": {"version": "1.0"},
        "pages v2": {"data_page_version": "2.0"}, "no dictionary": {"use_dictionary": False}, "small groups": {"row_group_size": 7},
    }.items():
        path = WORK / f"pyarrow-{name.replace(' ', '-')}.parquet"
        table = pa.table({"key": list(samples), "jpg": [p["jpg"] for p in samples.values()], "caption": texts})
        pq.write_table(table, path, **options)
        check(f"pyarrow, {name}", rows(path.stem, path))
    large = pa.table({"key": pa.array(list(samples), pa.large_string()), "caption": pa.array(texts, pa.large_string()),
                      "image": pa.array([p["jpg"] for p in samples.values()], pa.large_binary())})
    pq.write_table(large, WORK / "large.parquet")
    check("pyarrow, large strings and binaries", rows("large", WORK / "large.parquet"))
    dictionary = large.set_column(1, "caption", pa.array(texts).dictionary_encode())
    pq.write_table(dictionary, WORK / "dictionary.parquet")
    check("pyarrow, dictionary of captions", rows("dictionary", WORK / "dictionary.parquet"))


main()
