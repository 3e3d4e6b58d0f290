//! Commit records: `OUT/_recaption/shards/<shard>.<fingerprint>.json`, written last.
//!
//! A record's name carries the fingerprint of its input and of the configuration; it names its parts with size and sum, and
//! no other attempt's parts have their names. So a record is put on the condition that there is none, or exactly the one that
//! it is to replace, and whoever comes second removes what is his. Failures leave a record of their own, by which a rerun
//! tells poison from bad luck.

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

use object_store::{Error, ObjectStoreExt, PutMode, PutPayload};
use recaption_schemas::{FailureRecord, PartInfo, ShardCommit, ShardId, sha256_hex};
use serde::{Serialize, de::DeserializeOwned};

use crate::store::{Location, StoreError, StoreKind};
use exchange::{Exchanged, exchange};

pub use claim::{Begun, CLAIM, Claim, CommitError, Committer};
pub use exchange::open_plain;
pub use removal::REMOVALS;
pub use survey::{Facts, Found, Seen, Standing, Sum, Survey, sum_of, sum_of_object};
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

/// Attempts at a commit whose record comes and goes.
const ATTEMPTS: u32 = 4;

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The record was put.
    Now,
    /// The same record was there: its own put whose answer was lost, or another worker's identical work.
    Before,
    /// Another worker committed other rows first; they stay, and what this worker wrote is removed.
    Elsewhere,
}

/// A shard whose parts are visible.
pub struct Attempt<'a> {
    /// Its name.
    pub shard: &'a str,
    /// Its record.
    pub commit: &'a ShardCommit,
    /// What the record takes the place of; of a shard without a record nothing.
    pub expects: Option<&'a Standing>,
    /// The record that `expects` saw, where its rows go on in this one: it comes back when something is amiss.
    pub former: Option<&'a ShardCommit>,
    /// Records that do not hold any more once this one stands.
    pub stale: &'a [Standing],
    /// Parts that nobody needs once this record stands.
    pub orphans: &'a [Seen],
}

/// The records of one output.
#[derive(Clone)]
pub struct Ledger {
    out: Location,
}

impl<'a> Attempt<'a> {
    /// At a shard of which nothing is there.
    #[must_use]
    pub fn first(shard: &'a str, commit: &'a ShardCommit) -> Self {
        Self { shard, commit, expects: None, former: None, stale: &[], orphans: &[] }
    }
}

impl Ledger {
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

    /// Sum of a commit record's bytes, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn sum(&self, shard: &str, name: &RecordName) -> Result<Option<Sum>, StoreError> {
        let bytes = self.bytes_of(&self.place(COMMITS, shard, &name.fingerprint())).await?;
        Ok(bytes.map(|bytes| sum_of(&bytes)))
    }

    /// Writes a commit record: from now on the shard exists. It is put on the condition that there is none, or the one that
    /// the attempt expects, where the store knows conditions.
    ///
    /// One that is there already and says the same is this one. One that says otherwise stays: this worker came second, and
    /// its parts are removed unless that record names them. What is no record of this shard is replaced. In the end the
    /// parts are looked at again where they may have gone meanwhile: on a file system, after an exchange, and when `is_slow`.
    ///
    /// # Errors
    /// When the store refuses, or a part went meanwhile.
    pub async fn commit(
        &self,
        attempt: &Attempt<'_>,
        is_slow: impl Fn() -> bool,
    ) -> Result<Committed, StoreError> {
        let (shard, commit) = (attempt.shard, attempt.commit);
        let place = self.place(COMMITS, shard, &commit.fingerprint);
        let bytes = to_json(&place, commit)?;
        let mut expects = attempt.expects.map(|standing| standing.sum);
        for _ in 0..ATTEMPTS {
            let there = match expects {
                Some(sum) => match exchange(&place, &sum, &bytes, &self.lock_place()).await? {
                    Exchanged::Done => return self.settle(attempt, Committed::Now, is_slow).await,
                    Exchanged::Other(there) => there,
                    Exchanged::Gone => {
                        expects = None;
                        continue;
                    }
                },
                None if self.create(&place, &bytes).await? => {
                    return self.settle(attempt, Committed::Now, is_slow).await;
                }
                None => match self.bytes_of(&place).await? {
                    Some(there) => there,
                    // It came and went, or it is no file.
                    None => {
                        set_folder_aside(&place)?;
                        continue;
                    }
                },
            };
            match serde_json::from_slice::<ShardCommit>(&there) {
                Ok(there) if there == *commit => {
                    return self.settle(attempt, Committed::Before, is_slow).await;
                }
                Ok(there) if there.shard == commit.shard && there.fingerprint == commit.fingerprint => {
                    tracing::info!(
                        shard = commit.shard,
                        "another worker committed this shard first, with another outcome; its rows stay"
                    );
                    self.remove_own(commit, Some(&there)).await?;
                    return Ok(Committed::Elsewhere);
                }
                _ => {
                    tracing::warn!(record = place.url(), "what stands there is no record of this shard; it is replaced");
                    expects = Some(sum_of(&there));
                }
            }
        }
        Err(StoreError::Record {
            url: place.url(),
            what: "the commit record comes and goes: another run works on this output with other settings"
                .into(),
        })
    }

    /// Puts a record where there is none; `false` where there is one.
    async fn create(&self, place: &Location, bytes: &[u8]) -> Result<bool, StoreError> {
        let put = place.store.put_opts(&place.path, bytes.to_vec().into(), PutMode::Create.into()).await;
        let put = match put {
            Err(error) if cannot_create(&error) => {
                // As close as it gets: look, then put.
                if self.bytes_of(place).await?.is_some() {
                    return Ok(false);
                }
                place.store.put(&place.path, bytes.to_vec().into()).await
            }
            put => put,
        };
        match put {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(StoreError::Store { url: place.url(), source }),
        }
    }

    async fn bytes_of(&self, place: &Location) -> Result<Option<bytes::Bytes>, StoreError> {
        let failed = |source| StoreError::Store { url: place.url(), source };
        match place.store.get(&place.path).await {
            Ok(got) => got.bytes().await.map(Some).map_err(failed),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// The record stands; now its parts are looked at, where they may have gone.
    async fn settle(
        &self,
        attempt: &Attempt<'_>,
        committed: Committed,
        is_slow: impl Fn() -> bool,
    ) -> Result<Committed, StoreError> {
        if self.out.kind != StoreKind::Local && attempt.expects.is_none() && !is_slow() {
            return Ok(committed);
        }
        let commit = attempt.commit;
        let mut lost = None;
        for part in [&commit.captions, &commit.rejects] {
            if !self.is_there(part).await? {
                lost = Some(part.path.clone());
            }
        }
        let Some(lost) = lost else { return Ok(committed) };
        let place = self.place(COMMITS, attempt.shard, &commit.fingerprint);
        let bytes = to_json(&place, commit)?;
        match attempt.former {
            Some(former) => {
                let former = to_json(&place, former)?;
                exchange(&place, &sum_of(&bytes), &former, &self.lock_place()).await?;
            }
            None if self.bytes_of(&place).await?.is_some_and(|there| there == bytes) => remove(&place).await?,
            None => {}
        }
        let what = "it went while its record was written: something removes files of this output".into();
        Err(StoreError::Record { url: self.out.child(&lost).url(), what })
    }

    /// Whether a part is there and has its size.
    async fn is_there(&self, part: &PartInfo) -> Result<bool, StoreError> {
        let place = self.out.child(&part.path);
        match place.store.head(&place.path).await {
            Ok(meta) => Ok(meta.size == part.bytes),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StoreError::Store { url: place.url(), source }),
        }
    }

    /// Removes the parts of a record that does not stand, but for those that `there` names too.
    async fn remove_own(&self, commit: &ShardCommit, there: Option<&ShardCommit>) -> Result<(), StoreError> {
        let named: Vec<&str> =
            there.iter().flat_map(|there| [there.captions.path.as_str(), &there.rejects.path]).collect();
        for part in [&commit.captions, &commit.rejects] {
            if !named.contains(&part.path.as_str()) {
                remove(&self.out.child(&part.path)).await?;
            }
        }
        Ok(())
    }

    /// Removes records that do not hold, then parts that nobody needs; what `keeps` names stays.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn clear(
        &self,
        stale: &[Standing],
        orphans: &[Seen],
        keeps: Option<&ShardCommit>,
    ) -> Result<(), StoreError> {
        let kept = |path: &str| {
            keeps.is_some_and(|commit| commit.captions.path == path || commit.rejects.path == path)
        };
        for standing in stale {
            remove(&self.out.child(&standing.path())).await?;
        }
        for seen in orphans.iter().filter(|seen| !kept(&seen.path)) {
            remove(&self.out.child(&seen.path)).await?;
        }
        Ok(())
    }

    /// Where exchanges are locked on a file system.
    fn lock_place(&self) -> Location {
        self.out.child("_recaption/records.lock")
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

    /// A record that [`Ledger::failures`] named.
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

    /// Forgets a failure that [`Ledger::failures`] named.
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

/// Reads a small JSON document, if there is one.
///
/// # Errors
/// When it cannot be read or parsed.
pub async fn read_json<T: DeserializeOwned>(place: &Location) -> Result<Option<T>, StoreError> {
    let store_error = |source| StoreError::Store { url: place.url(), source };
    let bytes = match place.store.get(&place.path).await {
        Ok(got) => got.bytes().await.map_err(store_error)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(store_error(source)),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .map(Some)
        .map_err(|e| StoreError::Record { url: place.url(), what: format!("malformed record: {e}") })
}

/// Writes a small JSON document.
///
/// # Errors
/// When the store refuses.
pub async fn write_json(place: &Location, value: &impl Serialize) -> Result<(), StoreError> {
    let payload = PutPayload::from(to_json(place, value)?);
    let put = place.store.put(&place.path, payload).await;
    put.map(drop).map_err(|source| StoreError::Store { url: place.url(), source })
}

fn to_json(place: &Location, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| StoreError::Record { url: place.url(), what: e.to_string() })?;
    bytes.push(b'\n');
    Ok(bytes)
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

/// Moves a folder aside that stands in the place of a record: nobody puts one there on purpose, but it may hold something.
fn set_folder_aside(place: &Location) -> Result<(), StoreError> {
    if place.kind != StoreKind::Local {
        return Ok(());
    }
    let path = place.local_path();
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    tracing::warn!(record = place.url(), "a folder stands in the place of a record; it is moved aside");
    let aside = format!("{}.aside-{:08x}", path.display(), fastrand::u32(..));
    std::fs::rename(&path, aside).map_err(|e| StoreError::Record {
        url: place.url(),
        what: format!("a folder stands there, and it cannot be moved aside: {e}"),
    })
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
