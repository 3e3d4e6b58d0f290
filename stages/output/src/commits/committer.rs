//! One configuration per output: recorded before the first commit, checked before every one.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use object_store::{Error, ObjectStoreExt, PutMode};
use recaption_schemas::ShardCommit;
use recaption_store::{Location, StoreError, lacks_conditional_put, to_json};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::Instant};

use super::{
    commit::{CommitRequest, CommitResult},
    compare_and_swap::{SwapResult, compare_and_swap},
    log::{CommitLog, read_bytes},
    record::configuration_fingerprint,
};
use crate::{
    digest::{ContentDigest, digest_of},
    layout::CONFIGURATION,
};

/// Attempts at a configuration that other workers put at the same time.
const MAX_ATTEMPTS: u32 = 4;
/// Duration of a commit after which its parts are verified: other workers may have taken this one for dead.
const SLOW_COMMIT: Duration = Duration::from_secs(20);

/// The configuration that an output's rows are made with. Records of any other are invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputConfiguration {
    /// Its fingerprint, 16 hex digits.
    pub fingerprint: String,
    /// Keys that change rows, with their values.
    pub configuration: BTreeMap<String, String>,
}

/// Why a shard is not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The store failed, or a record cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output has another configuration by now.
    #[error("the output is made with another configuration")]
    ConfigurationMismatch(Box<OutputConfiguration>),
}

/// When a commit started, by two clocks: one stops while a machine sleeps, the other may be set.
#[derive(Clone, Copy, Debug)]
pub struct CommitStart(Instant, SystemTime);

impl CommitStart {
    /// Returns the current time.
    #[must_use]
    pub fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// Returns an earlier start, as if the process had been frozen for that long.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        Self(self.0.checked_sub(by).unwrap_or(self.0), self.1.checked_sub(by).unwrap_or(self.1))
    }

    fn is_slow(self) -> bool {
        self.0.elapsed() > SLOW_COMMIT || self.1.elapsed().is_ok_and(|elapsed| elapsed > SLOW_COMMIT)
    }
}

/// Commits shards of one configuration.
#[derive(Debug)]
pub struct Committer {
    /// The output's records.
    pub commit_log: CommitLog,
    /// Keys that change rows, with their values.
    pub configuration: BTreeMap<String, String>,
    fingerprint: String,
    /// Digest of the configuration that may be replaced; `None` once that is done, or where there is nothing to replace.
    replaces: Mutex<Option<ContentDigest>>,
}

impl CommitLog {
    fn configuration_location(&self) -> Location {
        self.out.child(CONFIGURATION)
    }

    /// Reads the output's configuration, `None` if there is none, as in outputs of old versions.
    ///
    /// # Errors
    /// Returns an error when it cannot be read.
    pub async fn configuration(&self) -> Result<Option<OutputConfiguration>, StoreError> {
        Ok(self.configuration_and_digest().await?.and_then(|(_, configuration)| configuration))
    }

    /// Reads the configuration and the digest of its bytes. A file that cannot be parsed has a digest only.
    async fn configuration_and_digest(
        &self,
    ) -> Result<Option<(ContentDigest, Option<OutputConfiguration>)>, StoreError> {
        let bytes = read_bytes(&self.configuration_location()).await?;
        Ok(bytes.map(|bytes| (digest_of(&bytes), serde_json::from_slice(&bytes).ok())))
    }

    /// Returns the committer of a run. With `overwrite` the configuration that exists now may be replaced.
    ///
    /// # Errors
    /// Returns an error when the existing configuration cannot be read.
    pub async fn committer(
        &self,
        configuration: BTreeMap<String, String>,
        overwrite: bool,
    ) -> Result<Committer, StoreError> {
        let replaces =
            if overwrite { self.configuration_and_digest().await?.map(|(digest, _)| digest) } else { None };
        let fingerprint = configuration_fingerprint(&configuration);
        Ok(Committer { commit_log: self.clone(), configuration, fingerprint, replaces: Mutex::new(replaces) })
    }
}

impl Committer {
    /// Makes sure that the output has this configuration, and starts a commit. Must come before a shard's parts become
    /// visible.
    ///
    /// # Errors
    /// Returns [`CommitError::ConfigurationMismatch`] when the output has another configuration.
    pub async fn begin(&self) -> Result<CommitStart, CommitError> {
        let start = CommitStart::now();
        let location = self.commit_log.configuration_location();
        let wanted = OutputConfiguration {
            fingerprint: self.fingerprint.clone(),
            configuration: self.configuration.clone(),
        };
        for _ in 0..MAX_ATTEMPTS {
            // Held from reading until the configuration is replaced: a shard that begins at the same time sees the new one, and never
            // the old one without the right to replace it.
            let mut replaceable = Some(self.replaces.lock().await).filter(|digest| digest.is_some());
            let replaces = match self.commit_log.configuration_and_digest().await? {
                Some((_, Some(existing))) if existing.fingerprint == self.fingerprint => {
                    if let Some(digest) = &mut replaceable {
                        **digest = None;
                    }
                    return Ok(start);
                }
                Some((digest, existing)) => {
                    let may_replace = replaceable.as_deref() == Some(&Some(digest));
                    match existing {
                        Some(existing) if !may_replace => {
                            return Err(CommitError::ConfigurationMismatch(Box::new(existing)));
                        }
                        // A file that is not a configuration is replaced.
                        _ => Some(digest),
                    }
                }
                None => None,
            };
            let bytes = to_json(&location, &wanted)?;
            match replaces {
                Some(digest) => {
                    let lock = self.commit_log.replacement_lock();
                    let result = compare_and_swap(&location, &digest, &bytes, &lock).await?;
                    if let (SwapResult::Swapped, Some(digest)) = (result, &mut replaceable) {
                        **digest = None;
                    }
                }
                None => create(&location, bytes).await?,
            }
        }
        let what =
            "the output's configuration keeps changing: several runs replace each other's rows".to_owned();
        Err(StoreError::Record { url: location.url(), what }.into())
    }

    /// Commits a shard whose parts are visible.
    ///
    /// # Errors
    /// Returns the errors of [`CommitLog::commit`], and [`CommitError::ConfigurationMismatch`] when the output was given
    /// another configuration meanwhile. Then neither record nor parts of this worker remain.
    pub async fn commit(
        &self,
        request: &CommitRequest<'_>,
        start: CommitStart,
    ) -> Result<CommitResult, CommitError> {
        let result = self.commit_log.commit(request, || start.is_slow()).await?;
        if result != CommitResult::CommittedByOther && start.is_slow() {
            // A process that was frozen for hours may find another configuration.
            if let Err(error) = self.begin().await {
                if matches!(error, CommitError::ConfigurationMismatch(_)) {
                    self.withdraw(request.shard, request.commit).await?;
                }
                return Err(error);
            }
        }
        if result != CommitResult::CommittedByOther {
            let (records, parts) = (request.stale_records, request.orphaned_parts);
            self.commit_log.delete_stale(records, parts, Some(request.commit)).await?;
        }
        Ok(result)
    }

    /// Deletes a record and its parts.
    async fn withdraw(&self, shard: &str, commit: &ShardCommit) -> Result<(), StoreError> {
        self.commit_log.record_location(shard, &commit.fingerprint).delete().await?;
        self.commit_log.delete_own_parts(commit, None).await
    }
}

/// Puts the configuration if there is none. Another worker's stays.
async fn create(location: &Location, bytes: Vec<u8>) -> Result<(), StoreError> {
    let failed = |source| StoreError::Store { url: location.url(), source };
    match location.store.put_opts(&location.path, bytes.clone().into(), PutMode::Create.into()).await {
        Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
        Err(error) if lacks_conditional_put(&error) => {
            location.store.put(&location.path, bytes.into()).await.map(drop).map_err(failed)
        }
        Err(source) => Err(failed(source)),
    }
}
