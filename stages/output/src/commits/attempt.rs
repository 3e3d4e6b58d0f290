//! One attempt at a shard: its parts are visible, its record is put, and it holds or gives way.

use object_store::{Error, ObjectStoreExt, PutMode};
use recaption_schemas::{PartInfo, ShardCommit};

use super::{
    COMMITS, CommitLog, RecordName, Seen, Standing, Sum, cannot_create,
    exchange::{Exchanged, exchange},
    remove, sum_of, to_json,
};
use recaption_store::{Location, StoreError, StoreKind};

/// Attempts at a commit whose record comes and goes.
const ATTEMPTS: u32 = 4;

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitResult {
    /// The record was put.
    Created,
    /// The same record was there: its own put whose answer was lost, or another worker's identical work.
    AlreadyExists,
    /// Another worker committed other rows first; they stay, and what this worker wrote is removed.
    CommittedByOther,
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

impl<'a> Attempt<'a> {
    /// At a shard of which nothing is there.
    #[must_use]
    pub fn first(shard: &'a str, commit: &'a ShardCommit) -> Self {
        Self { shard, commit, expects: None, former: None, stale: &[], orphans: &[] }
    }
}

impl CommitLog {
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
    ) -> Result<CommitResult, StoreError> {
        let (shard, commit) = (attempt.shard, attempt.commit);
        let place = self.place(COMMITS, shard, &commit.fingerprint);
        let bytes = to_json(&place, commit)?;
        let mut expects = attempt.expects.map(|standing| standing.sum);
        for _ in 0..ATTEMPTS {
            let there = match expects {
                Some(sum) => match exchange(&place, &sum, &bytes, &self.lock_place()).await? {
                    Exchanged::Done => return self.settle(attempt, CommitResult::Created, is_slow).await,
                    Exchanged::Other(there) => there,
                    Exchanged::Gone => {
                        expects = None;
                        continue;
                    }
                },
                None if self.create(&place, &bytes).await? => {
                    return self.settle(attempt, CommitResult::Created, is_slow).await;
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
                    return self.settle(attempt, CommitResult::AlreadyExists, is_slow).await;
                }
                Ok(there) if there.shard == commit.shard && there.fingerprint == commit.fingerprint => {
                    tracing::info!(
                        shard = commit.shard,
                        "another worker committed this shard first, with another outcome; its rows stay"
                    );
                    self.remove_own(commit, Some(&there)).await?;
                    return Ok(CommitResult::CommittedByOther);
                }
                _ => {
                    tracing::warn!(
                        record = place.url(),
                        "what stands there is no record of this shard; it is replaced"
                    );
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

    pub(super) async fn bytes_of(&self, place: &Location) -> Result<Option<bytes::Bytes>, StoreError> {
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
        committed: CommitResult,
        is_slow: impl Fn() -> bool,
    ) -> Result<CommitResult, StoreError> {
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
            None if self.bytes_of(&place).await?.is_some_and(|there| there == bytes) => {
                remove(&place).await?
            }
            None => {}
        }
        let what = "it went while its record was written: something removes files of this output".into();
        Err(StoreError::Record { url: self.out.child(&lost).url(), what })
    }

    /// Whether a part is there and has its size.
    pub(super) async fn is_there(&self, part: &PartInfo) -> Result<bool, StoreError> {
        let place = self.out.child(&part.path);
        match place.store.head(&place.path).await {
            Ok(meta) => Ok(meta.size == part.bytes),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StoreError::Store { url: place.url(), source }),
        }
    }

    /// Removes the parts of a record that does not stand, but for those that `there` names too.
    pub(super) async fn remove_own(
        &self,
        commit: &ShardCommit,
        there: Option<&ShardCommit>,
    ) -> Result<(), StoreError> {
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
    pub(super) fn lock_place(&self) -> Location {
        self.out.child("_recaption/records.lock")
    }
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
