"""Runs `recaption filter` on a finished output and checks it against quantiles that DuckDB, pyarrow and numpy compute.

    python3 -m venv venv && venv/bin/pip install duckdb pyarrow datasets
    venv/bin/python scripts/check_filter.py target/release/recaption OUT        (for instance target/demo/output)

Not part of `make test`: the libraries are large. Works in a temporary folder; OUT is only read.
"""
import decimal, json, math, os, pathlib, subprocess, sys, tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

PROGRAM, OUT = sys.argv[1], pathlib.Path(sys.argv[2])
SHARES = ["0.000001", "0.07", "0.3", "0.5", "0.999", "1"]


def run(to, *arguments):
    command = [PROGRAM, "filter", str(OUT), *arguments, "--to", str(to), "--log-format", "json", "--log-level", "warn"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def rows(place, table="captions"):
    return duckdb.sql(f"SELECT * FROM '{place}/{table}/*.parquet' ORDER BY shard, key").fetchall()


def wanted(by, share):
    """The k-th largest score and how many rows are at least it: by numpy's sort, and by DuckDB's."""
    scores = ds.dataset(OUT / "captions").to_table(columns=[by])[by].drop_null().to_numpy()
    if len(scores) == 0:
        return None, 0
    k = math.ceil(decimal.Decimal(share) * len(scores))
    threshold = np.sort(scores)[::-1][k - 1]
    descending = duckdb.sql(
        f"SELECT {by} FROM '{OUT}/captions/*.parquet' WHERE {by} IS NOT NULL ORDER BY 1 DESC LIMIT 1 OFFSET {k - 1}"
    )
    assert descending.fetchall()[0][0] == threshold
    return threshold, int((scores >= threshold).sum())


def check_share(folder, by, share):
    new = folder / f"{by}-{share}"
    report = run(new, "--keep-top", share, "--by", by)
    threshold, kept = wanted(by, share)
    assert (report["threshold"] is None) == (threshold is None), report
    assert report["rows"]["selected"] == kept, (report, kept)
    if threshold is not None:
        assert np.float32(report["threshold"]) == threshold, (report, threshold)
        # The threshold of the record, in 64 bits, keeps the same rows in SQL.
        query = f"SELECT * FROM '{OUT}/captions/*.parquet' WHERE {by} >= {report['threshold']!r}::DOUBLE ORDER BY shard, key"
        assert rows(new) == duckdb.sql(query).fetchall(), f"{new}: other rows than DuckDB's"
    cut = len(rows(OUT)) - kept
    assert len(rows(new, "rejects")) == len(rows(OUT, "rejects")) + cut
    assert json.loads((new / "_recaption/filter.json").read_text()) == report
    print(f"top {share:<9} {by:<15} threshold {report['threshold']}, {kept} kept, {report['ties']} ties")
    return new


def check_least(folder, least):
    new = folder / f"least-{least}"
    report = run(new, f"--min-similarity={least}")
    scores = ds.dataset(OUT / "captions").to_table(columns=["similarity"])["similarity"].to_numpy()
    kept = int((scores >= np.float32(least)).sum())
    assert report["rows"]["selected"] == kept == len(rows(new)), (report, kept)
    print(f"at least {least:<21} {kept} kept")


def check_column(folder, share):
    new = folder / "column"
    report = run(new, "--keep-top", share, "--column", "selected")
    table, source = ds.dataset(new / "captions").to_table(), ds.dataset(OUT / "captions").to_table()
    assert table.drop_columns(["selected"]).replace_schema_metadata() == source.replace_schema_metadata()
    assert table.schema.field("selected").type == pa.bool_()
    assert sum(table["selected"].to_pylist()) == report["rows"]["selected"]
    print(f"column selected: {table.num_rows} rows, {report['rows']['selected']} true")
    return new


def check_schema(new):
    for old in sorted((OUT / "captions").glob("*.parquet")):
        a, b = pq.read_schema(old), pq.read_schema(new / "captions" / old.name)
        assert a.equals(b), f"{old.name}: other columns"
        added = dict(b.metadata)
        passes = json.loads(added.pop(b"recaption.filter"))
        assert added == dict(a.metadata) and len(passes) >= 1, f"{old.name}: other metadata"
    print("schema and metadata are the source's, with recaption.filter added")


def check_datasets(new, count):
    from datasets import load_dataset

    data = load_dataset("parquet", data_files=f"{new}/captions/*.parquet", split="train", cache_dir=str(new.parent / "cache"))
    assert data.num_rows == count, (data, count)
    print(f"datasets {data.num_rows} rows, features {list(data.features)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        for by in ("similarity", "org_similarity"):
            for share in SHARES:
                new = check_share(folder, by, share)
        for least in ("-1", "0", "0.2", "0.3", "1"):
            check_least(folder, least)
        check_schema(folder / "similarity-0.3")
        check_datasets(folder / "similarity-0.3", len(rows(folder / "similarity-0.3")))
        check_datasets(check_column(folder, "0.3"), len(rows(OUT)))
    print("recaption filter agrees with numpy, DuckDB and pyarrow")
