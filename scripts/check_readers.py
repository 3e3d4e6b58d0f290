"""Reads a run's output with the libraries that trainers use, and checks that they agree.

    python3 -m venv venv && venv/bin/pip install pyarrow duckdb polars datasets
    venv/bin/python scripts/check_readers.py OUT        (for instance target/demo/output)

Not part of `make test`: the libraries are large.
"""
import os, pathlib, sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
OUT = pathlib.Path(sys.argv[1])
COLUMNS = ["key", "shard", "caption", "similarity", "org_caption", "org_similarity", "candidates", "itm", "width", "height",
           "sha256", "url", "meta"]


def with_pyarrow():
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    captions = ds.dataset(OUT / "captions").to_table()
    rejects = ds.dataset(OUT / "rejects").to_table()
    assert captions.column_names[: len(COLUMNS)] == COLUMNS, captions.column_names
    first = next((OUT / "captions").glob("*.parquet"))
    metadata = pq.read_metadata(first).metadata
    for key in (b"recaption.schema_version", b"recaption.model", b"recaption.decode"):
        assert key in metadata, f"{first} lacks {key}"
    print(f"pyarrow   {captions.num_rows} captions, {rejects.num_rows} rejects, decode {metadata[b'recaption.decode'].decode()}")
    return {r["key"]: (r["caption"], r["similarity"], r["candidates"][0]["logprob"]) for r in captions.to_pylist()}


def with_duckdb():
    import duckdb

    rows = duckdb.sql(f"SELECT key, caption, similarity, candidates[1].logprob FROM '{OUT}/captions/*.parquet'").fetchall()
    rejects = duckdb.sql(f"SELECT reason, count(*) FROM '{OUT}/rejects/*.parquet' GROUP BY reason").fetchall()
    print(f"duckdb    {len(rows)} captions, rejects {dict(rejects)}")
    return {key: (caption, similarity, logprob) for key, caption, similarity, logprob in rows}


def with_polars():
    import polars as pl

    frame = pl.read_parquet(f"{OUT}/captions/*.parquet")
    print(f"polars    {frame.height} captions, mean similarity {frame['similarity'].mean():.4f}")
    return {r["key"]: (r["caption"], r["similarity"], r["candidates"][0]["logprob"]) for r in frame.iter_rows(named=True)}


def with_datasets():
    from datasets import load_dataset

    data = load_dataset("parquet", data_files=f"{OUT}/captions/*.parquet", split="train", cache_dir=OUT.parent / "hf-cache")
    print(f"datasets  {data.num_rows} captions, features {list(data.features)}")
    if "image" in data.features:
        print(f"          image feature: {data.features['image']}, first {data[0]['image'].size}")
    rows = data.remove_columns([c for c in data.column_names if c == "image"])
    return {r["key"]: (r["caption"], r["similarity"], r["candidates"][0]["logprob"]) for r in rows}


if __name__ == "__main__":
    results = [f() for f in (with_pyarrow, with_duckdb, with_polars, with_datasets)]
    assert all(r == results[0] for r in results), "the readers disagree"
    print("all four read the same rows")
