//! Records under `OUT/_recaption/`: commit records, whose presence makes a shard done, and failure records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the commit record's own layout.
pub const COMMIT_FORMAT: u32 = 1;

/// Counts of a shard's samples. `read = captioned + rejected` always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Samples read from the shard; a damaged tail counts as one.
    pub read: u64,
    /// Rows in the captions part.
    pub captioned: u64,
    /// Rows in the rejects part.
    pub rejected: u64,
    /// Rejects by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Counts beside the rows.
    #[serde(flatten)]
    pub input: InputCounts,
    /// Texts that were truncated to the scorer's context length, at a token boundary.
    pub texts_cut: u64,
}

impl Counts {
    /// Returns whether every sample ended as exactly one row.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.read == self.captioned + self.rejected && self.rejected == self.reasons.values().sum::<u64>()
    }

    /// Adds the counts of another shard.
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

/// Counts beside a shard's rows. Records of older versions only have `ignored_members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InputCounts {
    /// Files and archive members that belong to no sample (directories, hidden files, `__meta__` names), for all reasons.
    pub ignored_members: u64,
    /// Ignored files and members by reason.
    pub ignored: BTreeMap<String, u64>,
    /// Images that are not captioned because their sample has several.
    pub extra_images: u64,
    /// Names of the first of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_image_names: Vec<String>,
    /// Samples without an original caption.
    pub without_caption: u64,
    /// Invalid sidecar JSON and malformed rows of metadata files.
    pub unreadable_json: u64,
}

impl InputCounts {
    /// Most names of extra images that are listed.
    const MAX_LISTED: usize = 20;

    /// Counts ignored files or members.
    pub fn ignore(&mut self, reason: &str, n: u64) {
        if n > 0 {
            self.ignored_members += n;
            *self.ignored.entry(reason.to_owned()).or_default() += n;
        }
    }

    /// Counts an extra image.
    pub fn extra_image(&mut self, name: String) {
        self.extra_images += 1;
        if self.extra_image_names.len() < Self::MAX_LISTED {
            self.extra_image_names.push(name);
        }
    }

    /// Adds the counts of another shard.
    pub fn add(&mut self, other: &Self) {
        self.ignored_members += other.ignored_members;
        for (reason, n) in &other.ignored {
            *self.ignored.entry(reason.clone()).or_default() += n;
        }
        self.extra_images += other.extra_images;
        let room = Self::MAX_LISTED.saturating_sub(self.extra_image_names.len());
        self.extra_image_names.extend(other.extra_image_names.iter().take(room).cloned());
        self.without_caption += other.without_caption;
        self.unreadable_json += other.unreadable_json;
    }
}

impl std::fmt::Display for InputCounts {
    /// Writes one line for every count that is not zero.
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

/// Damage of a shard that could be read in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Where the damage begins: a byte of the decompressed tar, or a row of a table or list.
    pub offset: u64,
    /// What is damaged.
    pub detail: String,
}

/// One uploaded part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Path below the output.
    pub path: String,
    /// Number of rows, or of samples.
    pub rows: u64,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// SHA-256 of the file, hex; `None` in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// The commit record of a shard, which is written last. A shard without one is not done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardCommit {
    /// [`COMMIT_FORMAT`].
    pub format: u32,
    /// URL of the input shard, redacted.
    pub shard: String,
    /// Size of the input, bytes.
    pub size: u64,
    /// Version tag of the input: its entity tag, or else its time of change.
    pub etag: Option<String>,
    /// Fingerprint of input and configuration, as in the record's name.
    pub fingerprint: String,
    /// The configuration keys that change rows, with their values.
    pub configuration: BTreeMap<String, String>,
    /// Digest of the model.
    pub model: String,
    /// Counts of its samples.
    pub counts: Counts,
    /// Set when the shard could be read only in part.
    pub damaged: Option<Damage>,
    /// The captions part.
    pub captions: PartInfo,
    /// The rejects part.
    pub rejects: PartInfo,
    /// The webdataset part, with `output.format = "webdataset"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webdataset: Option<PartInfo>,
    /// Settings that caused rejects although rows do not depend on them, with their values. When one changes, these samples are
    /// processed again. Empty in records of older versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

impl ShardCommit {
    /// Returns all parts.
    pub fn parts(&self) -> impl Iterator<Item = &PartInfo> {
        [&self.captions, &self.rejects].into_iter().chain(&self.webdataset)
    }
}

/// The kind of a shard's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Network, permissions, full disks: another attempt may succeed.
    Transport,
    /// The data: the same bytes fail the same way.
    Data,
    /// There is no such object, or it is not a regular file: it fails the same way until it exists.
    Missing,
    /// The processes that worked on it died, and whoever started them gave it up: `recaption worker`'s `give_up`.
    Crash,
}

impl FailureClass {
    /// Returns whether another attempt may succeed although nothing changed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Transport => true,
            Self::Data | Self::Missing | Self::Crash => false,
        }
    }

    /// Returns the class as records and answers spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transport => "transport",
            Self::Data => "data",
            Self::Missing => "missing",
            Self::Crash => "crash",
        }
    }
}

/// The record of a failed shard, by which a rerun recognises a permanent failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// URL of the input shard, redacted.
    pub shard: String,
    /// Fingerprint of the input alone (name, size, entity tag).
    pub input: String,
    /// Kind of the failure. Failures are compared by it, since messages may contain times.
    pub class: FailureClass,
    /// The error's text.
    pub error: String,
    /// Number of runs, or of requests to workers, in which the shard failed this way.
    pub attempts: u32,
}

impl FailureRecord {
    /// Returns whether another attempt fails the same way: the shard failed twice in the same class, other than in transport,
    /// or was given up.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !self.class.is_transient() && (self.attempts > 1 || self.class == FailureClass::Crash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_data_are_permanent_the_second_time() {
        let permanent = |class, attempts| {
            let (shard, input, error) = (String::new(), String::new(), String::new());
            FailureRecord { shard, input, class, error, attempts }.is_permanent()
        };
        assert_eq!([1, 2].map(|n| permanent(FailureClass::Data, n)), [false, true]);
        assert_eq!([1, 9].map(|n| permanent(FailureClass::Transport, n)), [false, false]);
        assert!(permanent(FailureClass::Crash, 1), "its driver has tried often enough");
        for class in [FailureClass::Transport, FailureClass::Data, FailureClass::Missing, FailureClass::Crash]
        {
            assert_eq!(serde_json::to_value(class).expect("JSON"), class.as_str());
        }
    }

    #[test]
    fn counts_of_older_records_are_read() {
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
