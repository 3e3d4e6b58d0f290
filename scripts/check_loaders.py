"""Loads what `recaption convert` wrote with the loaders of trainers, and checks that they see the same samples.

    python3 -m venv venv && venv/bin/pip install -r scripts/loaders.txt
    venv/bin/python scripts/check_loaders.py OUT --recaption target/release/recaption
        [--open-clip CHECKOUT] [--kohya CHECKOUT] [--diffusers CHECKOUT]

OUT is a finished output whose inputs still exist. The conversions go to a temporary folder. The checkouts are those of
mlfoundations/open_clip (its loader needs `pip install webdataset==0.2.86 torch torchvision timm ftfy` besides, which is large),
kohya-ss/sd-scripts and huggingface/diffusers. Of kohya's and diffusers' scripts the functions that load are taken from the source
and run as they are: importing the scripts would need the models. Not part of `make test`: the libraries are large.
"""
import argparse, ast, glob, os, pathlib, random, subprocess, sys, tempfile, textwrap, types

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def convert(args, work, name, to, *more):
    out = work / name
    command = [args.recaption, "--log-level", "warn", "convert", args.out, "--to", to, "--out", out, *more]
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
    return out


def with_webdataset(folder):
    import webdataset as wds

    tars = sorted(str(p) for p in folder.glob("*.tar"))
    dataset = wds.WebDataset(tars, shardshuffle=False).decode("pil")
    samples = {}
    for sample in dataset:
        image = next(sample[k] for k in ("jpg", "png", "webp") if k in sample)
        assert image.size == (sample["json"]["width"], sample["json"]["height"])
        assert sample["txt"] == sample["json"]["text"]
        samples[sample["__key__"]] = (sample["json"]["caption"], sample["json"]["org_caption"])
    print(f"webdataset    {len(samples)} samples in {len(tars)} tars")
    try:
        from wids import ShardListDataset
    except ImportError:
        print("wids          not in this version of webdataset (it is in 0.2)")
        return samples
    index = ShardListDataset(str(folder / "dataset.json"), cache_dir=str(folder.parent / "wids"), keep=True)
    assert len(index) == len(samples)
    assert all(index[at]["__key__"] in samples for at in (0, len(index) - 1))
    print(f"wids          {len(index)} samples by the index, at random access")
    return samples


def with_datasets(wds, hf, parquet):
    from datasets import load_dataset

    cache = str(wds.parent / "hf-cache")
    found = []
    for name, folder in (("webdataset", wds), ("image folder", hf), ("Parquet", parquet)):
        data = load_dataset(str(folder), split="train", cache_dir=cache)
        image = next(k for k in ("image", "jpg", "png", "webp") if k in data.features)
        texts = data["txt"] if "txt" in data.features else data["text"]
        assert data[0][image].size[0] > 0
        print(f"datasets      {name}: {data.num_rows} rows, {', '.join(data.features)}; first {data[0][image].size}")
        found.append(sorted(texts))
    plain = load_dataset("webdataset", data_files=str(wds / "*.tar"), split="train", cache_dir=cache)
    assert plain.num_rows == len(found[0])
    assert found[0] == found[1] == found[2], "the formats have different texts"
    return found[0]


def with_duckdb(folder, laion):
    import duckdb

    rows = duckdb.sql(f"SELECT count(*), count(DISTINCT key), avg(similarity) FROM '{folder}/*.parquet'").fetchall()[0]
    widths = duckdb.sql(f"SELECT TEXT, WIDTH, HEIGHT FROM '{laion}/*.parquet' ORDER BY TEXT").fetchall()
    print(f"duckdb        {rows[0]} rows of the output's columns, {len(widths)} of LAION's; mean similarity {rows[2]:.4f}")
    return sorted(row[0] for row in widths)


def with_pyarrow(img2dataset):
    import pyarrow.dataset as ds

    table = ds.dataset([str(p) for p in sorted(img2dataset.glob("*.parquet"))]).to_table()
    assert set(table["status"].to_pylist()) == {"success"}
    print(f"pyarrow       {table.num_rows} rows of img2dataset's columns: {', '.join(table.column_names)}")
    return sorted(table["caption"].to_pylist())


def with_open_clip(checkout, folder, samples):
    """The real `get_wds_dataset`, by the `.txt` members and by both captions of the JSON with weights."""
    sys.path.insert(0, str(pathlib.Path(checkout) / "src"))
    import open_clip
    from open_clip_train.data import get_wds_dataset
    from open_clip_train.params import parse_args
    from torchvision import transforms

    size = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    known = {text for pair in samples.values() for text in pair if text}
    tokenizer = lambda text: [text]
    tars = "::".join(sorted(str(p) for p in folder.glob("*.tar")))
    for name, flags in (("--text-key txt", []),
                        ("--json-text-key", ["--json-text-key", "caption;org_caption", "--json-text-key-probs", "0.5", "0.5"])):
        args = parse_args(["--train-data", tars, "--dataset-type", "webdataset", "--batch-size", "8", "--workers", "0", *flags])
        if flags and not hasattr(args, "json_text_key"):
            print(f"open_clip     {open_clip.__version__} has no --json-text-key")
            continue
        args.world_size, args.rank, args.distributed = 1, 0, False
        info = get_wds_dataset(args, size, is_train=True, tokenizer=tokenizer)
        texts = []
        for batch in info.dataloader:
            images, text = (batch["image"], batch["text"]) if isinstance(batch, dict) else batch
            assert images.shape[1:] == (3, 32, 32)
            texts += text if isinstance(text, list) else list(text)
        assert set(texts) <= known, set(texts) - known
        synthetic = sum(t in {c for c, _ in samples.values()} for t in texts)
        print(f"open_clip     {open_clip.__version__} {name}: {len(texts)} samples of {info.dataloader.num_samples}, "
              f"{synthetic} synthetic, {len(texts) - synthetic} original")


def functions(path, names, scope):
    """Functions of a source file, wherever they are defined in it, and its constant IMAGE_EXTENSIONS."""
    tree = ast.parse(pathlib.Path(path).read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in names and node.name not in found:
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
            exec(compile(ast.Module([node], []), str(path), "exec"), scope)
            found[node.name] = scope[node.name]
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "IMAGE_EXTENSIONS":
            scope["IMAGE_EXTENSIONS"] = ast.literal_eval(node.value)
    assert set(found) == set(names), set(names) - set(found)
    return types.SimpleNamespace(**found)


def with_kohya(checkout, folder):
    import logging

    scope = {"os": os, "glob": glob, "logger": logging.getLogger("kohya"), "random": random}
    path = pathlib.Path(checkout) / "library/train_util.py"
    kohya = functions(path, ["glob_images", "read_caption"], scope)
    captions = []
    for subset in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = kohya.glob_images(str(subset))
        captions += [kohya.read_caption(image, ".txt", False) for image in images]
    assert captions and None not in captions
    print(f"kohya         {len(captions)} images, each with the caption of its sidecar")
    return sorted(captions)


def with_diffusers(checkout, folder):
    """The data part of `train_text_to_image.py`, as far as it needs neither tokenizer nor torch."""
    from datasets import load_dataset

    source = pathlib.Path(checkout, "examples/text_to_image/train_text_to_image.py").read_text()
    start = source.index("        data_files = {}\n")
    end = source.index("    # Preprocessing the datasets.\n    # We need to tokenize input captions")
    # The branch of a local folder, then the choice of columns, as they stand.
    branch, columns = source[start:end].split("\n\n", 1)
    script = textwrap.dedent(branch) + "\n" + textwrap.dedent(columns)
    scope = {"os": os, "load_dataset": load_dataset, "DATASET_NAME_MAPPING": {},
             "args": types.SimpleNamespace(train_data_dir=str(folder), cache_dir=str(folder.parent / "diffusers-cache"),
                                           dataset_name=None, image_column=None, caption_column=None)}
    exec(compile(script, "train_text_to_image.py", "exec"), scope)
    data = scope["dataset"]["train"]
    images, texts = data[:2][scope["image_column"]], data[scope["caption_column"]]
    assert images[0].convert("RGB").size[0] > 0
    print(f"diffusers     {data.num_rows} images of the image folder, columns {scope['image_column']} and {scope['caption_column']}")
    return sorted(texts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--recaption", default="target/release/recaption")
    for name in ("open-clip", "kohya", "diffusers"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        wds = convert(args, work, "wds", "webdataset", "--rows-per-shard", "100")
        hf = convert(args, work, "hf", "hf", "--rows-per-shard", "100")
        side = convert(args, work, "side", "sidecar")
        columns = {c: convert(args, work, f"parquet-{c}", "parquet", "--columns", c) for c in ("recaption", "laion", "img2dataset", "hf")}
        samples = with_webdataset(wds)
        texts = with_datasets(wds, hf, columns["hf"])
        assert sorted(caption for caption, _ in samples.values()) == texts
        assert with_duckdb(columns["recaption"], columns["laion"]) == texts
        assert with_pyarrow(columns["img2dataset"]) == texts
        if args.kohya:
            assert with_kohya(args.kohya, side) == texts
        if args.diffusers:
            assert with_diffusers(args.diffusers, hf) == texts
        if args.open_clip:
            with_open_clip(args.open_clip, wds, samples)
    print(f"all of them load the same {len(texts)} samples")
