//! A finished run's captions, with the images it embedded, as training data.

use arrow_array::{Array, BinaryArray, RecordBatch, StringArray, StructArray, cast::AsArray};
use recaption_output::{PartReader, commits::CommitLog};
use recaption_schemas::PartInfo;
use recaption_store::{Location, Stores};
use tokio::sync::mpsc;

use super::{
    DataError, Example,
    shards::{Caption, Item},
};

/// Columns that are read.
const COLUMNS: [&str; 5] = ["key", "caption", "org_caption", "meta", "image"];

/// One part of an output.
#[derive(Clone)]
pub(super) struct Part {
    location: Location,
    info: PartInfo,
}

impl Part {
    /// Of path and size, which follow from the rows.
    pub fn fingerprint(&self) -> String {
        format!("{} {} {}", self.location.url(), self.info.rows, self.info.bytes)
    }
}

/// The parts of the output at `url` that a commit record vouches for, by name.
pub(super) async fn parts(stores: &mut Stores, url: &str) -> Result<Vec<Part>, DataError> {
    let failed = |e: &dyn std::fmt::Display| DataError::Output(e.to_string());
    let out = stores.locate(url).map_err(|e| failed(&e))?;
    let commit_log = CommitLog::new(out.clone());
    let mut parts = Vec::new();
    for (shard, names) in commit_log.list().await.map_err(|e| failed(&e))? {
        // A shard has several records when a run died between writing and clearing up: the parts are the last one's.
        if let [name] = names.as_slice() {
            let info = commit_log.read(&shard, name).await.map_err(|e| failed(&e))?.captions;
            parts.push(Part { location: out.child(&info.path), info });
        } else {
            tracing::warn!(shard, "has {} commit records; it is left out: finish the run first", names.len());
        }
    }
    parts.sort_by(|a, b| a.info.path.cmp(&b.info.path));
    if parts.is_empty() {
        return Err(DataError::Output(format!(
            "{}: no commit records: not the output of a finished `recaption run`",
            out.url()
        )));
    }
    Ok(parts)
}

/// Sends a part's rows.
pub(super) async fn read(
    number: usize,
    part: &Part,
    caption: &Caption,
    to: &mpsc::Sender<Item>,
) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| e.to_string();
    let open = |columns| PartReader::open(part.location.clone(), &part.info, columns);
    if open(None).await.map_err(|e| failed(&e))?.schema().index_of("image").is_err() {
        return Err(format!(
            "{}: no column `image`: run with `output.images = \"embed\"` to train on an output",
            part.location.url()
        ));
    }
    let mut reader = open(Some(&COLUMNS)).await.map_err(|e| failed(&e))?;
    let mut index = 0;
    while let Some(rows) = reader.next().await.map_err(|e| failed(&e))? {
        let rows = Rows::of(&rows)
            .ok_or_else(|| format!("{}: a column of {COLUMNS:?} has another type", part.location.url()))?;
        for i in 0..rows.len() {
            let item = match rows.example(i, number, index, caption) {
                Ok(example) => Item::Example(example, None),
                Err(reason) => Item::Bad { index, reason: reason.to_owned() },
            };
            index += 1;
            if to.send(item).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The columns of some rows.
struct Rows<'a> {
    key: &'a StringArray,
    caption: &'a StringArray,
    original: &'a StringArray,
    meta: &'a StringArray,
    image: &'a StructArray,
    bytes: &'a BinaryArray,
    path: &'a StringArray,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
        let image = batch.column_by_name("image")?.as_struct_opt()?;
        Some(Self {
            key: text("key")?,
            caption: text("caption")?,
            original: text("org_caption")?,
            meta: text("meta")?,
            image,
            bytes: image.column_by_name("bytes")?.as_binary_opt::<i32>()?,
            path: image.column_by_name("path")?.as_string_opt::<i32>()?,
        })
    }

    fn len(&self) -> usize {
        self.key.len()
    }

    fn example(
        &self,
        i: usize,
        shard: usize,
        index: u64,
        caption: &Caption,
    ) -> Result<Example, &'static str> {
        let optional = |column: &'a StringArray| column.is_valid(i).then(|| column.value(i));
        if self.image.is_null(i) || self.bytes.is_null(i) {
            return Err("missing_image");
        }
        let found = caption.find(optional(self.caption), optional(self.original), optional(self.meta))?;
        let suffix = self.path.value(i).rsplit_once('.').map_or("", |(_, suffix)| suffix).to_owned();
        Ok(Example {
            shard,
            index,
            key: self.key.value(i).to_owned(),
            image: bytes::Bytes::copy_from_slice(self.bytes.value(i)),
            suffix,
            caption: found,
        })
    }
}
