//! Commit records: `OUT/_recaption/shards/<shard>.<fingerprint>.json`, written last.
//!
//! One listing tells what is done: a record's name carries the fingerprint of its input and of the configuration.
//! Failures leave a record of their own, by which a rerun tells poison from bad luck.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutPayload};
use recaption_schemas::{FailureRecord, ShardCommit, ShardId, sha256_hex};
use serde::{Serialize, de::DeserializeOwned};

use crate::store::{Location, StoreError};

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
pub struct Ledger {
    out: Location,
}

impl Ledger {
    /// Of the output at `out`.
    #[must_use]
    pub fn new(out: Location) -> Self {
        Self { out }
    }

    fn failed(location: &Location, source: object_store::Error) -> StoreError {
        StoreError::Store { url: location.url(), source }
    }

    fn place(&self, folder: &str, shard: &str, fingerprint: &str) -> Location {
        self.out.child(folder).child(&format!("{shard}.{fingerprint}.json"))
    }

    /// Lists the commit records; nothing is opened.
    ///
    /// # Errors
    /// When the output cannot be listed.
    pub async fn list(&self) -> Result<Records, StoreError> {
        let folder = self.out.child(COMMITS);
        let mut records = Records::new();
        let mut listing = folder.store.list(Some(&folder.path));
        loop {
            match listing.try_next().await {
                Ok(Some(meta)) => {
                    if let Some((shard, name)) = meta.location.filename().and_then(RecordName::parse) {
                        records.entry(shard).or_default().push(name);
                    }
                }
                Ok(None) => return Ok(records),
                Err(object_store::Error::NotFound { .. }) => return Ok(records),
                Err(source) => return Err(Self::failed(&folder, source)),
            }
        }
    }

    /// Reads a commit record.
    ///
    /// # Errors
    /// When it cannot be read or parsed.
    pub async fn read(&self, shard: &str, name: &RecordName) -> Result<ShardCommit, StoreError> {
        let place = self.place(COMMITS, shard, &name.fingerprint());
        match read_json(&place).await? {
            Some(commit) => Ok(commit),
            None => Err(StoreError::Url { url: place.url(), what: "the commit record is gone".into() }),
        }
    }

    /// Writes a commit record: from now on the shard exists.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn commit(&self, shard: &str, commit: &ShardCommit) -> Result<(), StoreError> {
        write_json(&self.place(COMMITS, shard, &commit.fingerprint), commit).await
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
        let records = list_below(&self.out.child(FAILURES)).await?;
        let name = |place: &Location| Some(place.path.filename()?.strip_suffix(".json")?.to_owned());
        Ok(records.iter().filter_map(name).collect())
    }
}

async fn read_json<T: DeserializeOwned>(place: &Location) -> Result<Option<T>, StoreError> {
    let store_error = |source| StoreError::Store { url: place.url(), source };
    let bytes = match place.store.get(&place.path).await {
        Ok(got) => got.bytes().await.map_err(store_error)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(store_error(source)),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| StoreError::Url { url: place.url(), what: format!("malformed record: {e}") })
}

/// Writes a small JSON document.
///
/// # Errors
/// When the store refuses.
pub async fn write_json(place: &Location, value: &impl Serialize) -> Result<(), StoreError> {
    let store_error = |source| StoreError::Store { url: place.url(), source };
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| StoreError::Url { url: place.url(), what: e.to_string() })?;
    bytes.push(b'\n');
    place.store.put(&place.path, PutPayload::from(bytes)).await.map_err(store_error)?;
    Ok(())
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
    let listed: Result<Vec<_>, _> = folder.store.list(Some(&folder.path)).try_collect().await;
    match listed {
        Ok(metas) => Ok(metas.into_iter().map(|meta| folder.at(meta.location)).collect()),
        Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
        Err(source) => Err(StoreError::Store { url: folder.url(), source }),
    }
}

/// The part's path as the commit record names it.
#[must_use]
pub fn part_path(table: &str, id: &ShardId) -> String {
    format!("{table}/{}", id.part_name())
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
