//! The commit of one shard: its parts are visible, its record is put, and stays or yields to another worker's.

use object_store::{Error, ObjectStoreExt, PutMode};
use recaption_schemas::ShardCommit;
use recaption_store::{Location, StoreError, StoreKind, lacks_conditional_put, to_json};

use super::{
    compare_and_swap::{SwapResult, compare_and_swap},
    log::{CommitLog, read_bytes},
    record::{ExistingPart, ExistingRecord},
};
use crate::digest::digest_of;

/// Attempts at a record that other workers put and delete at the same time.
const MAX_ATTEMPTS: u32 = 4;

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitResult {
    /// The record was put.
    Created,
    /// The same record existed: this worker's own put whose response was lost, or another worker's identical rows.
    AlreadyExists,
    /// Another worker committed other rows first. They stay, and this worker's parts are deleted.
    CommittedByOther,
}

/// A shard to be committed. Its parts are visible.
#[derive(Clone, Copy, Debug)]
pub struct CommitRequest<'a> {
    /// The shard's name.
    pub shard: &'a str,
    /// Its new record.
    pub commit: &'a ShardCommit,
    /// The record that is replaced; `None` for a shard without one.
    pub replaces: Option<&'a ExistingRecord>,
    /// Content of `replaces`, if its rows are part of the new record's: it is restored when a part is missing.
    pub previous: Option<&'a ShardCommit>,
    /// Records that are invalid once this one exists.
    pub stale_records: &'a [ExistingRecord],
    /// Parts that no record needs once this one exists.
    pub orphaned_parts: &'a [ExistingPart],
}

impl<'a> CommitRequest<'a> {
    /// Returns the request of a shard that has neither records nor parts.
    #[must_use]
    pub fn first(shard: &'a str, commit: &'a ShardCommit) -> Self {
        Self { shard, commit, replaces: None, previous: None, stale_records: &[], orphaned_parts: &[] }
    }
}

impl CommitLog {
    /// Puts a commit record: from now on the shard is done. The put is conditional, where the store allows it: there is no
    /// record, or exactly the one that the request replaces.
    ///
    /// An existing record with the same content is this one. One with other content stays: this worker came second, and
    /// its parts are deleted unless that record names them. A file that is not a record of this shard is replaced. Last, the
    /// parts are verified where they may have been deleted meanwhile: on a file system, after a replacement, and when
    /// `is_slow` returns true.
    ///
    /// # Errors
    /// Returns an error when the store fails for good, or a part was deleted meanwhile.
    pub async fn commit(
        &self,
        request: &CommitRequest<'_>,
        is_slow: impl Fn() -> bool,
    ) -> Result<CommitResult, StoreError> {
        let (shard, commit) = (request.shard, request.commit);
        let location = self.record_location(shard, &commit.fingerprint);
        let bytes = to_json(&location, commit)?;
        let mut replaces = request.replaces.map(|record| record.digest);
        for _ in 0..MAX_ATTEMPTS {
            let existing = match replaces {
                Some(digest) => {
                    match compare_and_swap(&location, &digest, &bytes, &self.replacement_lock()).await? {
                        SwapResult::Swapped => {
                            return self.verify_parts(request, CommitResult::Created, is_slow).await;
                        }
                        SwapResult::Mismatch(existing) => existing,
                        SwapResult::Missing => {
                            replaces = None;
                            continue;
                        }
                    }
                }
                None if create(&location, &bytes).await? => {
                    return self.verify_parts(request, CommitResult::Created, is_slow).await;
                }
                None => match read_bytes(&location).await? {
                    Some(existing) => existing,
                    // It was deleted meanwhile, or it is a folder.
                    None => {
                        move_folder_aside(&location)?;
                        continue;
                    }
                },
            };
            match serde_json::from_slice::<ShardCommit>(&existing) {
                Ok(existing) if existing == *commit => {
                    return self.verify_parts(request, CommitResult::AlreadyExists, is_slow).await;
                }
                Ok(existing)
                    if existing.shard == commit.shard && existing.fingerprint == commit.fingerprint =>
                {
                    tracing::info!(
                        shard = commit.shard,
                        "shard already committed by another worker with different rows; keeping its record"
                    );
                    self.delete_own_parts(commit, Some(&existing)).await?;
                    return Ok(CommitResult::CommittedByOther);
                }
                _ => {
                    tracing::warn!(
                        record = location.url(),
                        "replacing a file that is not this shard's record"
                    );
                    replaces = Some(digest_of(&existing));
                }
            }
        }
        Err(StoreError::Record {
            url: location.url(),
            what: "the commit record keeps changing: another run with other settings writes to this output"
                .into(),
        })
    }

    /// Verifies the parts of a record that was put, where they may have been deleted. Where one is missing, the record is
    /// withdrawn.
    async fn verify_parts(
        &self,
        request: &CommitRequest<'_>,
        result: CommitResult,
        is_slow: impl Fn() -> bool,
    ) -> Result<CommitResult, StoreError> {
        if self.out.kind != StoreKind::Local && request.replaces.is_none() && !is_slow() {
            return Ok(result);
        }
        let commit = request.commit;
        let mut missing = None;
        for part in commit.parts() {
            if !self.verify_part(part).await? {
                missing = Some(part.path.clone());
            }
        }
        let Some(missing) = missing else { return Ok(result) };
        let location = self.record_location(request.shard, &commit.fingerprint);
        let bytes = to_json(&location, commit)?;
        match request.previous {
            Some(previous) => {
                let previous = to_json(&location, previous)?;
                compare_and_swap(&location, &digest_of(&bytes), &previous, &self.replacement_lock()).await?;
            }
            None if read_bytes(&location).await?.is_some_and(|existing| existing == bytes) => {
                location.delete().await?
            }
            None => {}
        }
        let what =
            "deleted while its record was written: another program deletes files of this output".into();
        Err(StoreError::Record { url: self.out.child(&missing).url(), what })
    }

    /// Deletes the parts of a record that does not exist, except those that `existing` names too.
    pub(super) async fn delete_own_parts(
        &self,
        commit: &ShardCommit,
        existing: Option<&ShardCommit>,
    ) -> Result<(), StoreError> {
        let named: Vec<&str> =
            existing.iter().flat_map(|other| other.parts()).map(|part| part.path.as_str()).collect();
        for part in commit.parts() {
            if !named.contains(&part.path.as_str()) {
                self.out.child(&part.path).delete().await?;
            }
        }
        Ok(())
    }

    /// Deletes stale records, then orphaned parts. Parts that `keep` names stay.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn delete_stale(
        &self,
        stale_records: &[ExistingRecord],
        orphaned_parts: &[ExistingPart],
        keep: Option<&ShardCommit>,
    ) -> Result<(), StoreError> {
        let kept = |path: &str| keep.is_some_and(|commit| commit.parts().any(|part| part.path == path));
        for record in stale_records {
            self.out.child(&record.path()).delete().await?;
        }
        for part in orphaned_parts.iter().filter(|part| !kept(&part.path)) {
            self.out.child(&part.path).delete().await?;
        }
        Ok(())
    }
}

/// Puts a record if there is none. Returns whether there was none.
async fn create(location: &Location, bytes: &[u8]) -> Result<bool, StoreError> {
    let put = location.store.put_opts(&location.path, bytes.to_vec().into(), PutMode::Create.into()).await;
    let put = match put {
        Err(error) if lacks_conditional_put(&error) => {
            // The nearest that such a store allows: a read, then a put.
            if read_bytes(location).await?.is_some() {
                return Ok(false);
            }
            location.store.put(&location.path, bytes.to_vec().into()).await
        }
        put => put,
    };
    match put {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
        Err(source) => Err(StoreError::Store { url: location.url(), source }),
    }
}

/// Renames a folder that stands where a record belongs. It is not deleted: it may hold something.
fn move_folder_aside(location: &Location) -> Result<(), StoreError> {
    if location.kind != StoreKind::Local {
        return Ok(());
    }
    let path = location.local_path();
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    tracing::warn!(record = location.url(), "renaming a folder that stands where a record belongs");
    let aside = format!("{}.aside-{:08x}", path.display(), fastrand::u32(..));
    std::fs::rename(&path, aside).map_err(|e| StoreError::Record {
        url: location.url(),
        what: format!("a folder stands where the record belongs, and cannot be renamed: {e}"),
    })
}
