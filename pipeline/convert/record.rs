//! Records of a conversion below `.recaption/` of its target: what it is, and which groups are written.
//!
//! The folder is hidden, so that readers of the dataset ignore it.

use std::collections::BTreeMap;

use recaption_output::{WrittenPart, second_pass::SourceDataset};
use serde::{Deserialize, Serialize};

use super::job::{ConvertJob, TargetFormat};

/// Folder of the records.
pub(super) const RECORDS: &str = ".recaption";
/// What the conversion is; written first.
pub(super) const CLAIM: &str = ".recaption/convert.json";
/// Folder of the groups' records, each written after its files.
pub(super) const GROUPS: &str = ".recaption/groups";
/// Most missing images that the report, and the record of a group, list.
pub(super) const MAX_REPORTED: usize = 1000;
/// Most missing images that are printed.
const MAX_PRINTED: usize = 20;

/// What a conversion is. Two conversions may share a target only if these are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// Version of this layout.
    pub format: u32,
    /// The target's format.
    pub to: String,
    /// URL of the source.
    pub source: String,
    /// Options that change what is written, with their values.
    pub options: BTreeMap<String, String>,
}

impl Claim {
    /// Returns the claim of a job.
    pub(super) fn of(job: &ConvertJob, source: &SourceDataset) -> Self {
        let mut options = BTreeMap::new();
        let mut put = |name: &str, value: String| options.insert(name.to_owned(), value);
        match job.format {
            TargetFormat::Parquet => drop(put("columns", job.columns.as_str().to_owned())),
            TargetFormat::Sidecar => {
                put("captions", job.captions.as_str().to_owned());
                put("suffix", job.suffix.clone());
            }
            TargetFormat::Webdataset | TargetFormat::Hf => {}
        }
        put("rows-per-shard", job.rows_per_shard.to_string());
        if let Some(blend) = job.blend {
            put("blend-synthetic", blend.synthetic.to_string());
            put("seed", blend.seed.to_string());
        }
        Self { format: 1, to: job.format.as_str().to_owned(), source: source.location.url(), options }
    }
}

/// A file that is complete and visible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WrittenFile {
    /// Path below the target; that of its table for a folder, empty for sidecars.
    pub path: String,
    /// Samples in it.
    pub samples: u64,
    /// Bytes, those of images in a folder included.
    pub bytes: u64,
    /// SHA-256 of the file, hex; empty for sidecars.
    pub sha256: String,
    /// Folders below the target that belong to it alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<String>,
}

impl From<WrittenPart> for WrittenFile {
    fn from(part: WrittenPart) -> Self {
        let WrittenPart { path, rows, bytes, sha256 } = part;
        Self { path, samples: rows, bytes, sha256, folders: Vec::new() }
    }
}

/// A row whose image could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingImage {
    /// URL of the shard.
    pub shard: String,
    /// Key of the sample.
    pub key: String,
    /// Why.
    pub detail: String,
}

/// A group that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupRecord {
    /// Digest of what its files depend on.
    pub fingerprint: String,
    /// Its files.
    pub files: Vec<WrittenFile>,
    /// Samples by the suffix of their images, where images are written.
    #[serde(default)]
    pub suffixes: BTreeMap<String, u64>,
    /// Number of rows that are not in its files. A rerun tries again.
    #[serde(default)]
    pub missing_rows: u64,
    /// The first of them.
    pub missing: Vec<MissingImage>,
}

impl GroupRecord {
    /// Returns whether no row is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.missing_rows == 0 && self.missing.is_empty()
    }
}

/// Groups by their numbers.
pub(super) type Records = BTreeMap<u64, GroupRecord>;

/// What a conversion did.
#[derive(Clone, Debug, Serialize)]
pub struct ConvertReport {
    /// Recaption's version.
    pub version: &'static str,
    /// The output that was read.
    pub source: String,
    /// Where the dataset is; `None` for sidecars beside the images.
    pub output: Option<String>,
    /// The format.
    pub to: &'static str,
    /// Rows of the source.
    pub rows: u64,
    /// Samples of the dataset, those that were written before included.
    pub samples: u64,
    /// Its files or folders.
    pub files: u64,
    /// Files that an earlier attempt had written.
    pub files_skipped: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Number of rows that are not in the dataset.
    pub missing: u64,
    /// The first of them.
    pub missing_images: Vec<MissingImage>,
}

impl ConvertReport {
    /// Starts a report.
    pub(super) fn begin(job: &ConvertJob, source: &SourceDataset, output: Option<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            source: source.location.url(),
            output,
            to: job.format.as_str(),
            rows: source.shards.iter().map(|shard| shard.captions.rows).sum(),
            samples: 0,
            files: 0,
            files_skipped: 0,
            bytes: 0,
            missing: 0,
            missing_images: Vec::new(),
        }
    }

    /// Adds a group.
    pub(super) fn add(&mut self, group: &GroupRecord, is_new: bool) {
        self.files += group.files.len() as u64;
        if !is_new {
            self.files_skipped += group.files.len() as u64;
        }
        self.samples += group.files.iter().map(|file| file.samples).sum::<u64>();
        self.bytes += group.files.iter().map(|file| file.bytes).sum::<u64>();
        // A record of an earlier version lists all and has no number.
        self.miss(&group.missing);
        self.missing += group.missing_rows.saturating_sub(group.missing.len() as u64);
    }

    /// Adds rows that are not in the dataset.
    pub(super) fn miss(&mut self, missing: &[MissingImage]) {
        self.missing += missing.len() as u64;
        let room = MAX_REPORTED.saturating_sub(self.missing_images.len());
        self.missing_images.extend(missing.iter().take(room).cloned());
    }
}

impl std::fmt::Display for ConvertReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "samples   {} of {} rows, {:.1} MB", self.samples, self.rows, self.bytes as f64 / 1e6)?;
        if self.files > 0 {
            writeln!(
                f,
                "files     {} {}, {} of them written before",
                self.files, self.to, self.files_skipped
            )?;
        }
        for missing in self.missing_images.iter().take(MAX_PRINTED) {
            writeln!(f, "missing   {} of {}: {}", missing.key, missing.shard, missing.detail)?;
        }
        let further = self.missing.saturating_sub(MAX_PRINTED as u64);
        if further > 0 {
            writeln!(f, "missing   {further} more")?;
        }
        match &self.output {
            Some(output) => writeln!(f, "output    {output}"),
            None => writeln!(f, "output    beside the images"),
        }
    }
}
