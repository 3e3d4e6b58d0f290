//! The commit and failure records of one output: reading, listing, deleting.

use object_store::{Error, ObjectMeta, ObjectStoreExt};
use recaption_schemas::{FailureRecord, PartInfo, ShardCommit, ShardId};
use recaption_store::{Location, StoreError, read_json, write_json};

use super::record::{RecordName, Records};
use crate::{
    digest::{ContentDigest, digest_of},
    layout::{COMMITS, FAILURES, REPLACEMENT_LOCK},
};

/// The records of one output. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CommitLog {
    pub(super) out: Location,
}

impl CommitLog {
    /// Returns the records of the output at `out`.
    #[must_use]
    pub fn new(out: Location) -> Self {
        Self { out }
    }

    /// Returns where a shard's commit record is.
    pub(super) fn record_location(&self, shard: &str, fingerprint: &str) -> Location {
        self.out.child(COMMITS).child(&format!("{shard}.{fingerprint}.json"))
    }

    /// Returns the file whose lock guards replacements on a file system.
    pub(super) fn replacement_lock(&self) -> Location {
        self.out.child(REPLACEMENT_LOCK)
    }

    /// Lists the commit records without reading them.
    ///
    /// # Errors
    /// Returns an error when the output cannot be listed.
    pub async fn list(&self) -> Result<Records, StoreError> {
        let mut records = Records::new();
        let folder = self.out.child(COMMITS);
        for (shard, name) in folder.list_as(|meta| RecordName::parse(meta.location.filename()?)).await? {
            records.entry(shard).or_default().push(name);
        }
        Ok(records)
    }

    /// Reads a commit record.
    ///
    /// # Errors
    /// Returns an error when there is none, or it cannot be read or parsed.
    pub async fn read(&self, shard: &str, name: &RecordName) -> Result<ShardCommit, StoreError> {
        match self.find(shard, name).await? {
            Some(commit) => Ok(commit),
            None => {
                let url = self.record_location(shard, &name.fingerprint()).url();
                Err(StoreError::Record { url, what: "the commit record does not exist any more".into() })
            }
        }
    }

    /// Reads a commit record, `None` if there is none.
    ///
    /// # Errors
    /// Returns an error when it cannot be read or parsed.
    pub async fn find(&self, shard: &str, name: &RecordName) -> Result<Option<ShardCommit>, StoreError> {
        read_json(&self.record_location(shard, &name.fingerprint())).await
    }

    /// Returns the digest of a commit record's bytes, `None` if there is none.
    ///
    /// # Errors
    /// Returns an error when it cannot be read.
    pub async fn digest(&self, shard: &str, name: &RecordName) -> Result<Option<ContentDigest>, StoreError> {
        let bytes = read_bytes(&self.record_location(shard, &name.fingerprint())).await?;
        Ok(bytes.map(|bytes| digest_of(&bytes)))
    }

    /// Deletes a commit record: the shard is not done any more. Must come before its parts are deleted.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn delete(&self, shard: &str, name: &RecordName) -> Result<(), StoreError> {
        self.record_location(shard, &name.fingerprint()).delete().await
    }

    /// Returns whether a part exists with the size that its record has.
    pub(super) async fn verify_part(&self, part: &PartInfo) -> Result<bool, StoreError> {
        let location = self.out.child(&part.path);
        match location.store.head(&location.path).await {
            Ok(meta) => Ok(meta.size == part.bytes),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StoreError::Store { url: location.url(), source }),
        }
    }

    fn failure_location(&self, shard: &str) -> Location {
        self.out.child(FAILURES).child(&format!("{shard}.json"))
    }

    /// Reads the failure record of a shard named by [`CommitLog::failures`], `None` if there is none.
    ///
    /// # Errors
    /// Returns an error when it cannot be read.
    pub async fn failure_of(&self, shard: &str) -> Result<Option<FailureRecord>, StoreError> {
        read_json(&self.failure_location(shard)).await
    }

    /// Reads the failure record of a shard, `None` if there is none.
    ///
    /// # Errors
    /// Returns an error when it cannot be read.
    pub async fn failure(&self, id: &ShardId) -> Result<Option<FailureRecord>, StoreError> {
        self.failure_of(id.as_str()).await
    }

    /// Writes a failure record.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn record_failure(&self, id: &ShardId, record: &FailureRecord) -> Result<(), StoreError> {
        write_json(&self.failure_location(id.as_str()), record).await
    }

    /// Deletes the failure record of a shard named by [`CommitLog::failures`].
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn delete_failure_of(&self, shard: &str) -> Result<(), StoreError> {
        self.failure_location(shard).delete().await
    }

    /// Deletes the failure record of a shard, after a success.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn delete_failure(&self, id: &ShardId) -> Result<(), StoreError> {
        self.delete_failure_of(id.as_str()).await
    }

    /// Lists the shards that have a failure record.
    ///
    /// # Errors
    /// Returns an error when the output cannot be listed.
    pub async fn failures(&self) -> Result<Vec<String>, StoreError> {
        self.documents_in(FAILURES).await
    }

    /// Lists the names of the JSON documents in a folder of the output.
    pub(super) async fn documents_in(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let name = |meta: ObjectMeta| Some(meta.location.filename()?.strip_suffix(".json")?.to_owned());
        self.out.child(folder).list_as(name).await
    }
}

/// Reads an object whole, `None` if there is none.
pub(super) async fn read_bytes(location: &Location) -> Result<Option<bytes::Bytes>, StoreError> {
    let failed = |source| StoreError::Store { url: location.url(), source };
    match location.store.get(&location.path).await {
        Ok(got) => got.bytes().await.map(Some).map_err(failed),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(source) => Err(failed(source)),
    }
}
