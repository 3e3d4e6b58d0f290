//! Records under `OUT/_recaption/`: what makes a shard exist, and what remembers a failure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the commit record's own layout.
pub const COMMIT_FORMAT: u32 = 1;

/// How many samples went where. `read = captioned + rejected` always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Samples read from the shard, a broken tail counted as one.
    pub read: u64,
    /// Rows in the captions part.
    pub captioned: u64,
    /// Rows in the rejects part.
    pub rejected: u64,
    /// Rejects by reason.
    pub reasons: BTreeMap<String, u64>,
    /// What was found beside the rows.
    #[serde(flatten)]
    pub input: InputCounts,
    /// Texts longer than the scoring model's context, cut at a token boundary for scoring.
    pub texts_cut: u64,
}

impl Counts {
    /// Whether every sample ended as exactly one row.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.read == self.captioned + self.rejected && self.rejected == self.reasons.values().sum::<u64>()
    }

    /// Adds another shard's counts.
    pub fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.captioned += other.captioned;
        self.rejected += other.rejected;
        self.input.add(&other.input);
        self.texts_cut += other.texts_cut;
        for (reason, n) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += n;
        }
    }
}

/// What a shard held beside its rows. Records of older versions have `ignored_members` alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InputCounts {
    /// Files and archive members that are no samples and no part of one (directories, hidden files, `__meta__` names), all
    /// reasons together.
    pub ignored_members: u64,
    /// The same by reason.
    pub ignored: BTreeMap<String, u64>,
    /// Images of samples that have several, without those that were captioned.
    pub extra_images: u64,
    /// The first of these, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_image_names: Vec<String>,
    /// Samples without an original caption.
    pub without_caption: u64,
    /// Sidecar JSON and rows of metadata files that could not be read.
    pub unreadable_json: u64,
}

impl InputCounts {
    /// Most names that are kept.
    const NAMED: usize = 20;

    /// Counts files or members that are passed over.
    pub fn ignore(&mut self, reason: &str, n: u64) {
        if n > 0 {
            self.ignored_members += n;
            *self.ignored.entry(reason.to_owned()).or_default() += n;
        }
    }

    /// Counts an image beside the one that is captioned.
    pub fn extra_image(&mut self, name: String) {
        self.extra_images += 1;
        if self.extra_image_names.len() < Self::NAMED {
            self.extra_image_names.push(name);
        }
    }

    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        self.ignored_members += other.ignored_members;
        for (reason, n) in &other.ignored {
            *self.ignored.entry(reason.clone()).or_default() += n;
        }
        self.extra_images += other.extra_images;
        let room = Self::NAMED.saturating_sub(self.extra_image_names.len());
        self.extra_image_names.extend(other.extra_image_names.iter().take(room).cloned());
        self.without_caption += other.without_caption;
        self.unreadable_json += other.unreadable_json;
    }
}

impl std::fmt::Display for InputCounts {
    /// One line for each thing that there is: its number and what it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.without_caption > 0 {
            writeln!(f, "          {:>8} without an original caption", self.without_caption)?;
        }
        if self.extra_images > 0 {
            writeln!(f, "          {:>8} further images of samples that have several", self.extra_images)?;
        }
        if self.unreadable_json > 0 {
            writeln!(f, "          {:>8} sidecar JSON or metadata rows not readable", self.unreadable_json)?;
        }
        for (reason, n) in &self.ignored {
            writeln!(f, "          {n:>8} files ignored: {reason}")?;
        }
        Ok(())
    }
}

/// What was wrong with a shard that could be read in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Where reading stopped making sense: a byte of the tar, unpacked where it is packed; of Parquet a row.
    pub offset: u64,
    /// What was found there.
    pub detail: String,
}

/// One uploaded Parquet part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Path below the output.
    pub path: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// SHA-256 of the file, hex; records of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// The commit record, written last: a shard without one does not exist.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardCommit {
    /// [`COMMIT_FORMAT`].
    pub format: u32,
    /// The input shard's URL, redacted.
    pub shard: String,
    /// Size of the input, bytes.
    pub size: u64,
    /// Entity tag of the input, when the store gives one.
    pub etag: Option<String>,
    /// Fingerprint of input and configuration, as in the record's name.
    pub fingerprint: String,
    /// The configuration keys that change rows, with their values.
    pub configuration: BTreeMap<String, String>,
    /// Digest of the model.
    pub model: String,
    /// Where every sample went.
    pub counts: Counts,
    /// Set when the shard could be read only in part.
    pub damaged: Option<Damage>,
    /// The captions part.
    pub captions: PartInfo,
    /// The rejects part.
    pub rejects: PartInfo,
    /// Settings that are no row keys and yet made rejects, with their values: when one is set otherwise, these samples are
    /// tried again. Records of older versions have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Whether a failure speaks of the data or of the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Network, permissions, missing objects, full disks: another attempt may go well.
    Transport,
    /// The bytes themselves: the same bytes will fail the same way.
    Data,
    /// There is no such object, or nothing that can be read as one: until somebody puts it there it fails the same way.
    Missing,
}

/// Remembers a failed shard, so that a rerun can tell poison from bad luck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// The input shard's URL, redacted.
    pub shard: String,
    /// Fingerprint of the input alone (name, size, entity tag).
    pub input: String,
    /// What it speaks of; by this failures are compared, since words may hold times.
    pub class: FailureClass,
    /// The error's text.
    pub error: String,
    /// How many runs met it.
    pub attempts: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_older_versions_are_read_and_new_ones_keep_their_names() {
        let old = r#"{"read":2,"captioned":2,"rejected":0,"reasons":{},"ignored_members":3,"texts_cut":1}"#;
        let mut counts: Counts = serde_json::from_str(old).expect("an older record");
        assert_eq!((counts.input.ignored_members, counts.texts_cut, counts.input.extra_images), (3, 1, 0));
        counts.input.ignore("hidden", 2);
        counts.input.extra_image("a.2.jpg".into());
        let value = serde_json::to_value(&counts).expect("JSON");
        assert_eq!(value["ignored_members"], 5);
        assert_eq!(value["ignored"]["hidden"], 2);
        assert_eq!(value["extra_images"], 1);
        let mut sum = counts.clone();
        sum.add(&counts);
        assert_eq!((sum.input.ignored["hidden"], sum.input.extra_images), (4, 2));
        assert_eq!(serde_json::from_value::<Counts>(value).expect("JSON"), counts);
    }
}
