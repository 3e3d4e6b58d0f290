//! Commit records: `OUT/_recaption/shards/<shard>.<fingerprint>.json`, written last.
//!
//! A record's name carries the fingerprint of its input and of the configuration; it names its parts with size and sum, and
//! no other attempt's parts have their names. So a record is put on the condition that there is none, or exactly the one that
//! it is to replace, and whoever comes second removes what is his. Failures leave a record of their own, by which a rerun
//! tells poison from bad luck.

mod attempt;
mod claim;
mod exchange;
mod inventory;
mod removal;
mod survey;
mod workers;

use std::{
    collections::{BTreeMap, HashMap},
    io::ErrorKind,
};

use object_store::{Error, ObjectStoreExt};
use recaption_schemas::{FailureRecord, ShardCommit, ShardId, sha256_hex};

use recaption_store::{Location, StoreError, read_json, to_json, write_json};

pub use attempt::{Attempt, CommitResult};
pub use claim::{Begun, CLAIM, Claim, CommitError, Committer};
pub use exchange::open_plain;
pub use removal::PENDING_DELETIONS;
pub use survey::{Facts, Seen, ShardState, Standing, Sum, Survey, sum_of, sum_of_object};
pub use workers::{CLAIMS, Taken, WORKERS, Workers};

/// Folder of the commit records below the output.
pub const COMMITS: &str = "_recaption/shards";
/// Folder of the failure records below the output.
pub const FAILURES: &str = "_recaption/failures";

/// Fingerprint of the configuration: of every key that changes rows, with its value. 16 hex digits.
#[must_use]
pub fn configuration_fingerprint(configuration: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in configuration {
        text.push_str(&format!("{key} = {value}\n"));
    }
    sha256_hex(text.as_bytes())[..16].to_owned()
}

/// A record's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordName {
    /// Fingerprint of the input.
    pub input: String,
    /// Fingerprint of the configuration.
    pub configuration: String,
}

impl RecordName {
    /// `<input>-<configuration>`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{}-{}", self.input, self.configuration)
    }

    fn parse(file: &str) -> Option<(String, Self)> {
        let (shard, fingerprint) = file.strip_suffix(".json")?.rsplit_once('.')?;
        let (input, configuration) = fingerprint.split_once('-')?;
        Some((shard.to_owned(), Self { input: input.to_owned(), configuration: configuration.to_owned() }))
    }
}

/// All records of an output, by shard. A shard has several when an earlier run died between writing and clearing up.
pub type Records = HashMap<String, Vec<RecordName>>;

/// The records of one output.
#[derive(Clone)]
pub struct CommitLog {
    out: Location,
}

impl CommitLog {
    /// Of the output at `out`.
    #[must_use]
    pub fn new(out: Location) -> Self {
        Self { out }
    }

    fn place(&self, folder: &str, shard: &str, fingerprint: &str) -> Location {
        self.out.child(folder).child(&format!("{shard}.{fingerprint}.json"))
    }

    /// Lists the commit records; nothing is opened.
    ///
    /// # Errors
    /// When the output cannot be listed.
    pub async fn list(&self) -> Result<Records, StoreError> {
        let mut records = Records::new();
        for meta in self.out.child(COMMITS).list().await? {
            if let Some((shard, name)) = meta.location.filename().and_then(RecordName::parse) {
                records.entry(shard).or_default().push(name);
            }
        }
        Ok(records)
    }

    /// Reads a commit record.
    ///
    /// # Errors
    /// When it cannot be read or parsed.
    pub async fn read(&self, shard: &str, name: &RecordName) -> Result<ShardCommit, StoreError> {
        match self.find(shard, name).await? {
            Some(commit) => Ok(commit),
            None => {
                let url = self.place(COMMITS, shard, &name.fingerprint()).url();
                Err(StoreError::Record { url, what: "the commit record is gone".into() })
            }
        }
    }

    /// Reads a commit record, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or parsed.
    pub async fn find(&self, shard: &str, name: &RecordName) -> Result<Option<ShardCommit>, StoreError> {
        read_json(&self.place(COMMITS, shard, &name.fingerprint())).await
    }

    /// Removes a commit record: the shard no longer exists. To be done before its parts are replaced.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn revoke(&self, shard: &str, name: &RecordName) -> Result<(), StoreError> {
        remove(&self.place(COMMITS, shard, &name.fingerprint())).await
    }

    fn failure_place(&self, id: &ShardId) -> Location {
        self.out.child(FAILURES).child(&format!("{id}.json"))
    }

    /// A record that [`CommitLog::failures`] named.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn failure_of(&self, shard: &str) -> Result<Option<FailureRecord>, StoreError> {
        read_json(&self.out.child(FAILURES).child(&format!("{shard}.json"))).await
    }

    /// The record of an earlier failure of this shard.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn failure(&self, id: &ShardId) -> Result<Option<FailureRecord>, StoreError> {
        read_json(&self.failure_place(id)).await
    }

    /// Remembers a failure.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn remember_failure(&self, id: &ShardId, record: &FailureRecord) -> Result<(), StoreError> {
        write_json(&self.failure_place(id), record).await
    }

    /// Forgets a failure that [`CommitLog::failures`] named.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn forget_failure_of(&self, shard: &str) -> Result<(), StoreError> {
        remove(&self.out.child(FAILURES).child(&format!("{shard}.json"))).await
    }

    /// Forgets a failure, after a success.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn forget_failure(&self, id: &ShardId) -> Result<(), StoreError> {
        remove(&self.failure_place(id)).await
    }

    /// Shards that failed in an earlier run.
    ///
    /// # Errors
    /// When the output cannot be listed.
    pub async fn failures(&self) -> Result<Vec<String>, StoreError> {
        self.names_below(FAILURES).await
    }

    /// Shards that have a document in a folder of the output.
    async fn names_below(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let records = list_below(&self.out.child(folder)).await?;
        let name = |place: &Location| Some(place.path.filename()?.strip_suffix(".json")?.to_owned());
        Ok(records.iter().filter_map(name).collect())
    }
}

/// Whether a store, or the file system under it, has no conditional put: S3 servers of old, file systems without hard links.
fn cannot_create(error: &Error) -> bool {
    match error {
        Error::NotImplemented { .. } | Error::NotSupported { .. } => true,
        Error::Generic { .. } => {
            let text = error.to_string();
            let link = std::iter::successors(std::error::Error::source(error), |e| e.source())
                .find_map(|e| e.downcast_ref::<std::io::Error>())
                .is_some_and(|e| matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied));
            link || text.contains("status code: 501") || text.contains("NotImplemented")
        }
        _ => false,
    }
}

/// Removes an object; one that is not there is no error.
///
/// # Errors
/// When the store refuses.
pub async fn remove(place: &Location) -> Result<(), StoreError> {
    match place.store.delete(&place.path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(source) => Err(StoreError::Store { url: place.url(), source }),
    }
}

/// Everything below a folder; nothing where there is no such folder.
///
/// # Errors
/// When the store refuses.
pub async fn list_below(folder: &Location) -> Result<Vec<Location>, StoreError> {
    Ok(folder.list().await?.into_iter().map(|meta| folder.at(meta.location)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_names_come_apart_again() {
        let name = RecordName { input: "ab".into(), configuration: "cd".into() };
        let file = format!("00001-0badcafe.{}.json", name.fingerprint());
        assert_eq!(RecordName::parse(&file), Some(("00001-0badcafe".into(), name)));
        assert_eq!(RecordName::parse("00001-0badcafe.json"), None);
        assert_eq!(RecordName::parse("x.ab-cd.txt"), None);
    }

    #[test]
    fn a_fingerprint_follows_every_value() {
        let make = |v: &str| configuration_fingerprint(&BTreeMap::from([("a.b".into(), v.into())]));
        assert_eq!(make("1"), make("1"));
        assert_ne!(make("1"), make("2"));
    }
}
