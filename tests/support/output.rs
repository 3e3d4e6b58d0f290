//! What a run leaves behind, read back: every row with every column, every commit record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
};

use arrow_array::{
    Array, BinaryArray, Float32Array, Int32Array, ListArray, RecordBatch, StringArray, StructArray,
    cast::AsArray,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use recaption_schemas::ShardCommit;
use serde_json::Value;

/// A number of which every bit counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bits(pub u32);

impl Bits {
    /// As a number.
    pub(crate) fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:08x})", self.get(), self.0)
    }
}

/// A row of `captions/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caption {
    pub(crate) key: String,
    pub(crate) shard: String,
    pub(crate) caption: String,
    pub(crate) similarity: Bits,
    pub(crate) org_caption: Option<String>,
    pub(crate) org_similarity: Option<Bits>,
    pub(crate) candidates: Vec<(String, Bits, Bits)>,
    pub(crate) itm: Option<Bits>,
    /// `None` too where there is no such column.
    pub(crate) org_itm: Option<Bits>,
    pub(crate) width: i32,
    pub(crate) height: i32,
    pub sha256: String,
    pub(crate) url: Option<String>,
    pub(crate) meta: Option<String>,
    pub(crate) image: Option<(Vec<u8>, String)>,
}

/// A row of `rejects/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) key: String,
    pub(crate) shard: String,
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) caption: Option<String>,
    pub(crate) similarity: Option<Bits>,
    pub(crate) org_caption: Option<String>,
}

/// An output: rows in the order of part names and rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rows {
    pub(crate) captions: Vec<Caption>,
    pub(crate) rejects: Vec<Rejected>,
}

/// Everything in `output` that counts: parts that a commit record vouches for. Fails on a part without a record, on a
/// record whose part has another number of rows, and on accounts that do not balance.
#[track_caller]
pub(crate) fn read(output: &Path) -> Rows {
    let commits = commits(output);
    let promised: BTreeSet<PathBuf> = commits
        .iter()
        .flat_map(|c| [&c.captions.path, &c.rejects.path])
        .map(|path| output.join(path))
        .collect();
    let found: BTreeSet<PathBuf> = parts(output).into_iter().collect();
    assert_eq!(found, promised, "the parts are not those that the commit records name");
    let mut rows = Rows { captions: Vec::new(), rejects: Vec::new() };
    for commit in &commits {
        let captions = read_captions(&output.join(&commit.captions.path));
        let rejects = read_rejects(&output.join(&commit.rejects.path));
        let counts = &commit.counts;
        assert_eq!(
            (captions.len() as u64, rejects.len() as u64),
            (counts.captioned, counts.rejected),
            "{commit:#?}"
        );
        assert_eq!(counts.read, counts.captioned + counts.rejected, "{commit:#?}");
        assert_eq!(
            (counts.captioned, counts.rejected),
            (commit.captions.rows, commit.rejects.rows),
            "{commit:#?}"
        );
        let mut reasons = BTreeMap::new();
        rejects.iter().for_each(|reject| *reasons.entry(reject.reason.clone()).or_default() += 1);
        assert_eq!(reasons, counts.reasons, "{commit:#?}");
        rows.captions.extend(captions);
        rows.rejects.extend(rejects);
    }
    rows
}

/// The commit records, by the shard's URL.
pub(crate) fn commits(output: &Path) -> Vec<ShardCommit> {
    let mut commits: Vec<ShardCommit> =
        listed(&output.join("_recaption/shards"), "json").iter().map(|path| read_json(path)).collect();
    commits.sort_by(|a, b| a.shard.cmp(&b.shard));
    commits
}

/// The records of all runs, the oldest first.
pub(crate) fn runs(output: &Path) -> Vec<Value> {
    listed(&output.join("_recaption/runs"), "json").iter().map(|path| read_json(path)).collect()
}

/// The commit record of the shard whose file has this name.
#[track_caller]
pub(crate) fn commit_of(output: &Path, file: &str) -> ShardCommit {
    let mut found = commits(output).into_iter().filter(|commit| commit.shard.ends_with(&format!("/{file}")));
    found.next().unwrap_or_else(|| panic!("no commit record of {file} in {}", output.display()))
}

/// All parts, whether a commit record knows them or not.
pub(crate) fn parts(output: &Path) -> Vec<PathBuf> {
    let mut parts = listed(&output.join("captions"), "parquet");
    parts.extend(listed(&output.join("rejects"), "parquet"));
    parts
}

/// The bytes of all parts, by file name.
pub(crate) fn part_bytes(output: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let name = |path: &Path| path.strip_prefix(output).expect("below the output").to_owned();
    parts(output).iter().map(|path| (name(path), fs::read(path).expect("a part can be read"))).collect()
}

/// The rows of one captions part.
#[track_caller]
pub(crate) fn read_captions(part: &Path) -> Vec<Caption> {
    batches(part).iter().flat_map(captions_of).collect()
}

/// The rows of one rejects part.
#[track_caller]
pub(crate) fn read_rejects(part: &Path) -> Vec<Rejected> {
    batches(part).iter().flat_map(rejects_of).collect()
}

fn listed(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder's entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == extension));
    paths.sort();
    paths
}

#[track_caller]
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let bytes = fs::read(path).expect("a record can be read");
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[track_caller]
fn batches(part: &Path) -> Vec<RecordBatch> {
    let file = File::open(part).unwrap_or_else(|e| panic!("{}: {e}", part.display()));
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(file).and_then(ParquetRecordBatchReaderBuilder::build);
    let reader = reader.unwrap_or_else(|e| panic!("{} is no Parquet file: {e}", part.display()));
    reader.map(|batch| batch.unwrap_or_else(|e| panic!("{}: {e}", part.display()))).collect()
}

fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> &'a T {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    column
        .as_any()
        .downcast_ref()
        .unwrap_or_else(|| panic!("column {name} is of type {}", column.data_type()))
}

fn text(array: &StringArray, row: usize) -> Option<String> {
    array.is_valid(row).then(|| array.value(row).to_owned())
}

fn number(array: &Float32Array, row: usize) -> Option<Bits> {
    array.is_valid(row).then(|| Bits(array.value(row).to_bits()))
}

fn captions_of(batch: &RecordBatch) -> Vec<Caption> {
    let texts = |name| column::<StringArray>(batch, name);
    let numbers = |name| column::<Float32Array>(batch, name);
    let sides = |name| column::<Int32Array>(batch, name);
    let image = batch.column_by_name("image").map(|c| c.as_struct().clone());
    (0..batch.num_rows())
        .map(|row| Caption {
            key: texts("key").value(row).to_owned(),
            shard: texts("shard").value(row).to_owned(),
            caption: texts("caption").value(row).to_owned(),
            similarity: Bits(numbers("similarity").value(row).to_bits()),
            org_caption: text(texts("org_caption"), row),
            org_similarity: number(numbers("org_similarity"), row),
            candidates: candidates(column(batch, "candidates"), row),
            itm: number(numbers("itm"), row),
            org_itm: batch.column_by_name("org_itm").and_then(|_| number(numbers("org_itm"), row)),
            width: sides("width").value(row),
            height: sides("height").value(row),
            sha256: texts("sha256").value(row).to_owned(),
            url: text(texts("url"), row),
            meta: text(texts("meta"), row),
            image: image.as_ref().and_then(|image| stored(image, row)),
        })
        .collect()
}

fn candidates(list: &ListArray, row: usize) -> Vec<(String, Bits, Bits)> {
    let list = list.value(row);
    let list = list.as_struct();
    let field = |i: usize| list.column(i).as_primitive::<arrow_array::types::Float32Type>();
    let bits = |i: usize, at: usize| Bits(field(i).value(at).to_bits());
    let texts = list.column(0).as_string::<i32>();
    (0..list.len()).map(|at| (texts.value(at).to_owned(), bits(1, at), bits(2, at))).collect()
}

fn stored(image: &StructArray, row: usize) -> Option<(Vec<u8>, String)> {
    let bytes: &BinaryArray = image.column(0).as_binary();
    let path: &StringArray = image.column(1).as_string();
    image.is_valid(row).then(|| (bytes.value(row).to_owned(), path.value(row).to_owned()))
}

fn rejects_of(batch: &RecordBatch) -> Vec<Rejected> {
    let texts = |name| column::<StringArray>(batch, name);
    (0..batch.num_rows())
        .map(|row| Rejected {
            key: texts("key").value(row).to_owned(),
            shard: texts("shard").value(row).to_owned(),
            reason: texts("reason").value(row).to_owned(),
            detail: texts("detail").value(row).to_owned(),
            caption: text(texts("caption"), row),
            similarity: number(column(batch, "similarity"), row),
            org_caption: text(texts("org_caption"), row),
        })
        .collect()
}
