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
    /// Archive members that are no samples (directories, hidden files, `__meta__` names).
    pub ignored_members: u64,
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
        self.ignored_members += other.ignored_members;
        self.texts_cut += other.texts_cut;
        for (reason, n) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += n;
        }
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
