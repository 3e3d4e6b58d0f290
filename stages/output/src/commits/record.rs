//! Records and parts that exist in an output, as a scan finds them.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Deref, DerefMut},
};

use chrono::{DateTime, Utc};
use recaption_schemas::{Counts, Damage, PartInfo, ShardId, sha256_hex};
use serde::{Deserialize, Serialize};

use crate::{digest::ContentDigest, layout::COMMITS};

/// Returns the fingerprint of a configuration: of every key that changes rows, with its value. 16 hex digits.
#[must_use]
pub fn configuration_fingerprint(configuration: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in configuration {
        text.push_str(&format!("{key} = {value}\n"));
    }
    sha256_hex(text.as_bytes())[..16].to_owned()
}

/// The fingerprints in a commit record's file name, `<shard>.<input>-<configuration>.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordName {
    /// Fingerprint of the input.
    pub input: String,
    /// Fingerprint of the configuration.
    pub configuration: String,
}

impl RecordName {
    /// Returns `<input>-<configuration>`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{}-{}", self.input, self.configuration)
    }

    /// Parses a record's file name into the shard's name and the fingerprints.
    pub(crate) fn parse(file: &str) -> Option<(String, Self)> {
        let (shard, fingerprint) = file.strip_suffix(".json")?.rsplit_once('.')?;
        let (input, configuration) = fingerprint.split_once('-')?;
        Some((shard.to_owned(), Self { input: input.to_owned(), configuration: configuration.to_owned() }))
    }
}

/// The names of an output's records, by shard. A shard has several when a worker died between writing a record and
/// deleting the one that it replaces.
pub type Records = HashMap<String, Vec<RecordName>>;

/// What planning needs of a commit record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordSummary {
    /// The shard's URL.
    pub shard: String,
    /// Fingerprint of input and configuration.
    pub fingerprint: String,
    /// Counts of samples by outcome.
    pub counts: Counts,
    /// Set if the shard was damaged and is read only in part.
    pub damaged: Option<Damage>,
    /// The captions part.
    pub captions: PartInfo,
    /// The rejects part.
    pub rejects: PartInfo,
    /// The webdataset part, if the output has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webdataset: Option<PartInfo>,
    /// Settings that caused rejects.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

impl RecordSummary {
    /// Returns all parts.
    pub fn parts(&self) -> impl Iterator<Item = &PartInfo> {
        [&self.captions, &self.rejects].into_iter().chain(&self.webdataset)
    }

    /// Parses a record and checks that it belongs to the shard `file` and the fingerprint `name`.
    pub(crate) fn parse(bytes: &[u8], file: &str, name: &RecordName) -> Result<Self, String> {
        let summary: Self =
            serde_json::from_slice(bytes).map_err(|e| format!("it is not a commit record: {e}"))?;
        let is_named = |id: ShardId| id.as_str() == file;
        if !is_named(ShardId::from_url(&summary.shard)) && !is_named(ShardId::old_from_url(&summary.shard)) {
            return Err(format!("it is the record of another shard, {}", summary.shard));
        }
        if summary.fingerprint != name.fingerprint() {
            return Err("its fingerprint differs from its name".to_owned());
        }
        Ok(summary)
    }
}

/// A commit record that exists in an output. One pointer: most shards have none.
#[derive(Clone, Debug)]
pub struct ExistingRecord(Box<RecordContent>);

impl Deref for ExistingRecord {
    type Target = RecordContent;

    fn deref(&self) -> &RecordContent {
        &self.0
    }
}

impl DerefMut for ExistingRecord {
    fn deref_mut(&mut self) -> &mut RecordContent {
        &mut self.0
    }
}

/// The content of an [`ExistingRecord`].
#[derive(Clone, Debug)]
pub struct RecordContent {
    /// The shard's name in the record's file name.
    pub file: String,
    /// The fingerprints in the record's file name.
    pub name: RecordName,
    /// Digest of the record's bytes.
    pub digest: ContentDigest,
    /// The content, if it is a record of this shard.
    pub summary: Option<RecordSummary>,
    /// Why the shard must be processed again: the record is unusable, or a part does not match it.
    pub problem: Option<String>,
    /// When the last of its parts was put, by the store's clock, once they were found.
    pub(super) parts_modified: DateTime<Utc>,
}

impl ExistingRecord {
    /// Creates a record whose parts were not looked for.
    pub(super) fn new(
        (file, name): (String, RecordName),
        digest: ContentDigest,
        summary: Result<RecordSummary, String>,
    ) -> Self {
        let (summary, problem) = match summary {
            Ok(summary) => (Some(summary), None),
            Err(problem) => (None, Some(problem)),
        };
        let parts_modified = DateTime::UNIX_EPOCH;
        Self(Box::new(RecordContent { file, name, digest, summary, problem, parts_modified }))
    }

    /// Returns the content.
    #[must_use]
    pub fn into_content(self) -> RecordContent {
        *self.0
    }

    /// Returns whether the record is usable and both parts match it.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.problem.is_none() && self.summary.is_some()
    }

    /// Returns the record's path below the output.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{COMMITS}/{}.{}.json", self.file, self.name.fingerprint())
    }

    /// Returns the parts of a valid record, none of any other.
    pub(super) fn existing_parts(&self) -> impl Iterator<Item = ExistingPart> {
        let valid = self.summary.iter().filter(|_| self.is_valid());
        let modified = self.parts_modified;
        valid.flat_map(RecordSummary::parts).map(move |part| ExistingPart {
            path: part.path.clone(),
            bytes: part.bytes,
            modified,
        })
    }

    /// Returns the paths of the parts that the record names.
    pub(crate) fn part_paths(&self) -> impl Iterator<Item = &str> {
        self.summary.iter().flat_map(RecordSummary::parts).map(|part| part.path.as_str())
    }
}

/// A part that exists in an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingPart {
    /// Path below the output.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// When it was put, by the store's clock.
    pub modified: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_names_parse_back() {
        let name = RecordName { input: "ab".into(), configuration: "cd".into() };
        let file = format!("00001-0badcafe.{}.json", name.fingerprint());
        assert_eq!(RecordName::parse(&file), Some(("00001-0badcafe".into(), name)));
        assert_eq!(RecordName::parse("00001-0badcafe.json"), None);
        assert_eq!(RecordName::parse("x.ab-cd.txt"), None);
    }

    #[test]
    fn fingerprints_depend_on_every_value() {
        let make = |v: &str| configuration_fingerprint(&BTreeMap::from([("a.b".into(), v.into())]));
        assert_eq!(make("1"), make("1"));
        assert_ne!(make("1"), make("2"));
    }
}
