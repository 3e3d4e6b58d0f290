//! Samples -> image files with their texts: a text file beside each image, or a `metadata.parquet` for all.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use arrow_array::{ArrayRef, Float32Array, Int32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, path::Path};
use recaption_output::{
    PartWriter,
    webdataset::{image_suffix, safe_key},
};
use recaption_store::{Location, StoreError};

use super::{
    job::{ConvertJob, SidecarCaptions},
    record::WrittenFile,
    samples::Sample,
};

/// Files gathered before they are written.
const BATCH_FILES: usize = 256;
/// Bytes gathered before they are written.
const BATCH_BYTES: usize = 16 << 20;
/// Files written at the same time.
const CONCURRENT_FILES: usize = 16;
/// Longest key that names a file, bytes. File systems allow 255 per name, and a suffix follows.
const MAX_NAME: usize = 200;
/// Folder of the images of an image folder, as `datasets` expects the split's name.
pub(super) const TRAIN: &str = "data/train";

/// What stands beside the images.
enum Beside {
    /// A text file per image.
    Sidecars { captions: SidecarCaptions, suffix: String },
    /// One table for the folder.
    Metadata { writer: Box<PartWriter>, schema: Arc<Schema>, gathered: Vec<(String, Sample)> },
}

/// A folder being written.
pub(super) struct FolderSink {
    target: Location,
    folder: String,
    beside: Beside,
    files: Vec<(String, Bytes)>,
    file_bytes: usize,
    samples: u64,
    bytes: u64,
    folders: BTreeMap<String, ()>,
}

impl FolderSink {
    /// Starts a folder of images with text files.
    pub(super) fn sidecars(job: &ConvertJob, target: &Location) -> Self {
        let beside = Beside::Sidecars { captions: job.captions, suffix: job.suffix.clone() };
        Self::new(target, String::new(), beside)
    }

    /// Starts a folder of images with a table.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub(super) fn image_folder(target: &Location, number: u64) -> anyhow::Result<Self> {
        let folder = format!("{TRAIN}/{number:06}/");
        let schema = Arc::new(metadata_schema());
        let path = format!("{folder}metadata.parquet");
        let writer = Box::new(PartWriter::at(target, &path, Arc::clone(&schema))?);
        Ok(Self::new(target, folder, Beside::Metadata { writer, schema, gathered: Vec::new() }))
    }

    fn new(target: &Location, folder: String, beside: Beside) -> Self {
        Self {
            target: target.clone(),
            folder,
            beside,
            files: Vec::new(),
            file_bytes: 0,
            samples: 0,
            bytes: 0,
            folders: BTreeMap::new(),
        }
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(super) async fn push(&mut self, sample: Sample) -> anyhow::Result<()> {
        self.samples += 1;
        self.file_bytes += sample.image.len();
        let name = format!("{}/{}", sample.shard, file_stem(sample.row.key()));
        let image_name = format!("{}{name}.{}", self.folder, image_suffix(&sample.image));
        self.files.push((image_name.clone(), sample.image.clone()));
        match &mut self.beside {
            Beside::Sidecars { captions, suffix } => {
                let text = lines(*captions, &sample);
                self.files.push((format!("{name}.{suffix}"), text.into()));
                self.folders.insert(sample.shard, ());
            }
            Beside::Metadata { gathered, .. } => {
                let relative = image_name[self.folder.len()..].to_owned();
                let image = Bytes::new();
                gathered.push((relative, Sample { image, ..sample }));
            }
        }
        if self.files.len() >= BATCH_FILES || self.file_bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Completes the folder. Its table comes last.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(super) async fn finish(mut self) -> anyhow::Result<WrittenFile> {
        self.flush().await?;
        let mut written = WrittenFile {
            path: self.folder.trim_end_matches('/').to_owned(),
            samples: self.samples,
            bytes: self.bytes,
            sha256: String::new(),
            folders: self.folders.into_keys().collect(),
        };
        if let Beside::Metadata { writer, .. } = self.beside {
            let table = writer.finish().await?;
            written.bytes += table.bytes;
            written.folders = vec![written.path.clone()];
            (written.path, written.sha256) = (table.path, table.sha256);
        }
        Ok(written)
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let files = std::mem::take(&mut self.files);
        self.file_bytes = 0;
        self.bytes += files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let target = &self.target;
        let puts = files.into_iter().map(|(name, bytes)| put(target, name, bytes));
        stream::iter(puts).buffer_unordered(CONCURRENT_FILES).try_collect::<Vec<()>>().await?;
        if let Beside::Metadata { writer, schema, gathered } = &mut self.beside
            && !gathered.is_empty()
        {
            let rows = std::mem::take(gathered);
            writer.write(RecordBatch::try_new(Arc::clone(schema), metadata_columns(&rows))?).await?;
        }
        Ok(())
    }
}

/// Writes a file below the target.
async fn put(target: &Location, name: String, bytes: Bytes) -> anyhow::Result<()> {
    let location = below(target, &name)?;
    let put = location.store.put(&location.path, bytes.into()).await;
    put.map(drop).map_err(|source| StoreError::Store { url: location.url(), source }.into())
}

/// Returns a place below the target, whose name is kept letter by letter.
///
/// # Errors
/// When the name would leave the target.
pub(super) fn below(target: &Location, name: &str) -> anyhow::Result<Location> {
    let path = Path::parse(format!("{}/{name}", target.path))
        .with_context(|| format!("{} cannot hold a file {name:?}", target.url()))?;
    Ok(target.at(path))
}

/// Returns a path for a key, without suffix: the key itself if every part of it is a plain file name, otherwise a made name.
pub(super) fn file_stem(key: &str) -> String {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part == part.trim()
            && !part.contains(|c: char| c.is_control() || c == '\\')
    };
    let looks_made = safe_key(key) != key && key.len() <= 80 && is_bare(key);
    // A folder with a dot could have the name of another sample's file.
    let folders = key.rsplit_once('/').map_or("", |(folders, _)| folders);
    let is_safe = key.split('/').all(is_plain) && !folders.contains('.');
    if key.len() <= MAX_NAME && is_safe && !looks_made { key.to_owned() } else { safe_key(key) }
}

/// Returns whether a key has the characters of a made name alone.
fn is_bare(key: &str) -> bool {
    key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Returns the lines of a sidecar: one caption per line, each once.
pub(super) fn sidecar_lines(
    captions: SidecarCaptions,
    text: &str,
    sample: (&recaption_output::CaptionRows, usize),
) -> String {
    let (rows, row) = sample;
    let all: Vec<String> = match captions {
        SidecarCaptions::Chosen => vec![text.to_owned()],
        // The chosen caption is first: some trainers read the first line alone.
        SidecarCaptions::All => {
            std::iter::once(rows.caption(row).to_owned()).chain(rows.candidates(row)).collect()
        }
        SidecarCaptions::Both => {
            let original = rows.org_caption(row).map(str::to_owned);
            std::iter::once(rows.caption(row).to_owned()).chain(original).collect()
        }
    };
    let mut lines: Vec<String> = Vec::new();
    for caption in all {
        let line = caption.split_whitespace().collect::<Vec<_>>().join(" ");
        if !line.is_empty() && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn lines(captions: SidecarCaptions, sample: &Sample) -> String {
    sidecar_lines(captions, &sample.text, (&sample.row.batch.rows, sample.row.row))
}

/// Columns of `metadata.parquet`; `text` comes first, since diffusers' script takes the first column after the image.
pub(super) const METADATA_COLUMNS: [(&str, &str); 10] = [
    ("text", "string"),
    ("caption", "string"),
    ("org_caption", "string"),
    ("similarity", "float32"),
    ("org_similarity", "float32"),
    ("key", "string"),
    ("shard", "string"),
    ("width", "int32"),
    ("height", "int32"),
    ("sha256", "string"),
];

fn metadata_schema() -> Schema {
    let mut fields = vec![Field::new("file_name", DataType::Utf8, false)];
    fields.extend(METADATA_COLUMNS.iter().map(|(name, kind)| {
        let kind = match *kind {
            "float32" => DataType::Float32,
            "int32" => DataType::Int32,
            _ => DataType::Utf8,
        };
        Field::new(*name, kind, true)
    }));
    Schema::new(fields)
}

fn metadata_columns(rows: &[(String, Sample)]) -> Vec<ArrayRef> {
    fn strings<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
        Arc::new(values.collect::<StringArray>())
    }
    let of = || rows.iter().map(|(_, sample)| (&sample.row.batch.rows, sample.row.row));
    vec![
        strings(rows.iter().map(|(name, _)| Some(name.as_str()))),
        strings(rows.iter().map(|(_, sample)| Some(sample.text.as_str()))),
        strings(of().map(|(rows, row)| Some(rows.caption(row)))),
        strings(of().map(|(rows, row)| rows.org_caption(row))),
        Arc::new(of().map(|(rows, row)| Some(rows.similarity(row))).collect::<Float32Array>()),
        Arc::new(of().map(|(rows, row)| rows.org_similarity(row)).collect::<Float32Array>()),
        strings(of().map(|(rows, row)| Some(rows.key(row)))),
        strings(of().map(|(rows, row)| Some(rows.shard(row)))),
        Arc::new(of().map(|(rows, row)| Some(rows.width(row))).collect::<Int32Array>()),
        Arc::new(of().map(|(rows, row)| Some(rows.height(row))).collect::<Int32Array>()),
        strings(of().map(|(rows, row)| Some(rows.sha256(row)))),
    ]
}

#[cfg(test)]
mod tests {
    use super::file_stem;

    #[test]
    fn names_never_leave_the_folder() {
        for usual in ["a", "photos/a b", "größe", "a.1"] {
            assert_eq!(file_stem(usual), usual);
        }
        let long = "x".repeat(201);
        for key in ["../a", "a/../b", "/a", "", ".hidden", "a//b", "a\nb", "a/", "a\\b", "a.jpg/b", &long] {
            let name = file_stem(key);
            assert!(!name.contains(['/', '.', '\\', '\n']) && !name.is_empty(), "{key:?} gives {name}");
        }
        assert_ne!(file_stem(&file_stem("../a")), file_stem("../a"), "a made name is no other key's");
    }
}
