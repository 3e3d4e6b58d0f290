//! One configuration per output: claimed before the first commit, looked at before every one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use object_store::{Error, ObjectStoreExt, PutMode};
use recaption_schemas::ShardCommit;
use serde::{Deserialize, Serialize};

use super::{
    Attempt, CommitLog, CommitResult, cannot_create, configuration_fingerprint,
    exchange::{Exchanged, exchange},
    survey::{Sum, sum_of},
    to_json,
};
use recaption_store::{Location, StoreError};

/// Place of the claim below the output.
pub const CLAIM: &str = "_recaption/configuration.json";
/// Attempts at a claim that others make too.
const ATTEMPTS: u32 = 4;
/// A commit that took longer is looked at again: others may have taken this worker for dead.
const SLOW: Duration = Duration::from_secs(20);

/// The configuration that an output's rows are made with. Records of any other do not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its fingerprint.
    pub fingerprint: String,
    /// Keys that change rows, with their values.
    pub configuration: BTreeMap<String, String>,
}

/// Why a shard is not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The store, or what lies there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output has another configuration by now.
    #[error("the output is made with another configuration")]
    Other(Box<Claim>),
}

/// When a commit began, by two clocks: one stands still while a machine sleeps, the other may be set.
#[derive(Clone, Copy, Debug)]
pub struct Begun(Instant, SystemTime);

impl Begun {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    /// The same, but so much earlier: as if the process had been frozen for that long.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        Self(self.0.checked_sub(by).unwrap_or(self.0), self.1.checked_sub(by).unwrap_or(self.1))
    }

    fn is_long_ago(self) -> bool {
        self.0.elapsed() > SLOW || self.1.elapsed().is_ok_and(|elapsed| elapsed > SLOW)
    }
}

/// Commits shards of one configuration.
pub struct Committer {
    /// The output's records.
    pub commit_log: CommitLog,
    /// Keys that change rows.
    pub configuration: BTreeMap<String, String>,
    fingerprint: String,
    /// The claim that may be replaced, where the user wants it replaced; none once that is done.
    replaces: Mutex<Option<Sum>>,
}

impl CommitLog {
    fn claim_place(&self) -> Location {
        self.out.child(CLAIM)
    }

    /// The configuration that the output is claimed for. Outputs of older versions have no claim.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn claim(&self) -> Result<Option<Claim>, StoreError> {
        Ok(self.claim_and_sum().await?.and_then(|(_, claim)| claim))
    }

    /// The claim and the sum of its bytes; a claim that cannot be understood is none, but has a sum.
    async fn claim_and_sum(&self) -> Result<Option<(Sum, Option<Claim>)>, StoreError> {
        let place = self.claim_place();
        let failed = |source| StoreError::Store { url: place.url(), source };
        match place.store.get(&place.path).await {
            Ok(got) => {
                let bytes = got.bytes().await.map_err(failed)?;
                Ok(Some((sum_of(&bytes), serde_json::from_slice(&bytes).ok())))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Commits for a run: with `overwrite`, the claim that stands now may be replaced.
    ///
    /// # Errors
    /// When the claim cannot be read.
    pub async fn committer(
        &self,
        configuration: BTreeMap<String, String>,
        overwrite: bool,
    ) -> Result<Committer, StoreError> {
        let replaces = if overwrite { self.claim_and_sum().await?.map(|(sum, _)| sum) } else { None };
        let fingerprint = configuration_fingerprint(&configuration);
        Ok(Committer { commit_log: self.clone(), configuration, fingerprint, replaces: Mutex::new(replaces) })
    }
}

impl Committer {
    /// Makes sure that the output is claimed for this configuration. To be done before a shard's parts become visible.
    ///
    /// # Errors
    /// [`CommitError::Other`] when it is claimed for another one.
    pub async fn begin(&self) -> Result<Begun, CommitError> {
        let begun = Begun::now();
        let place = self.commit_log.claim_place();
        let wanted =
            Claim { fingerprint: self.fingerprint.clone(), configuration: self.configuration.clone() };
        for _ in 0..ATTEMPTS {
            let expects = match self.commit_log.claim_and_sum().await? {
                Some((_, Some(claim))) if claim.fingerprint == self.fingerprint => return Ok(begun),
                Some((sum, claim)) => {
                    let may = *self.replaces.lock().unwrap_or_else(PoisonError::into_inner) == Some(sum);
                    match claim {
                        Some(claim) if !may => return Err(CommitError::Other(Box::new(claim))),
                        // What is no claim binds nobody.
                        _ => Some(sum),
                    }
                }
                None => None,
            };
            let bytes = to_json(&place, &wanted)?;
            match expects {
                Some(sum) => {
                    if let Exchanged::Done =
                        exchange(&place, &sum, &bytes, &self.commit_log.lock_place()).await?
                    {
                        *self.replaces.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    }
                }
                None => match place
                    .store
                    .put_opts(&place.path, bytes.clone().into(), PutMode::Create.into())
                    .await
                {
                    Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                    Err(error) if cannot_create(&error) => {
                        let put = place.store.put(&place.path, bytes.into()).await;
                        put.map_err(|source| StoreError::Store { url: place.url(), source })?;
                    }
                    Err(source) => return Err(StoreError::Store { url: place.url(), source }.into()),
                },
            }
        }
        let what = "the claim of this output changes again and again: several runs replace each other's rows"
            .to_owned();
        Err(StoreError::Record { url: place.url(), what }.into())
    }

    /// Commits a shard whose parts are visible.
    ///
    /// # Errors
    /// As [`CommitLog::commit`]; [`CommitError::Other`] when the output was given another configuration meanwhile. Nothing of
    /// the shard is then left by this worker.
    pub async fn commit(&self, attempt: &Attempt<'_>, begun: Begun) -> Result<CommitResult, CommitError> {
        let committed = self.commit_log.commit(attempt, || begun.is_long_ago()).await?;
        if committed != CommitResult::CommittedByOther && begun.is_long_ago() {
            // Whoever sleeps for hours may wake in another world.
            if let Err(error) = self.begin().await {
                if matches!(error, CommitError::Other(_)) {
                    self.withdraw(attempt.shard, attempt.commit).await?;
                }
                return Err(error);
            }
        }
        if committed != CommitResult::CommittedByOther {
            self.commit_log.clear(attempt.stale, attempt.orphans, Some(attempt.commit)).await?;
        }
        Ok(committed)
    }

    /// Takes a record and its parts back.
    async fn withdraw(&self, shard: &str, commit: &ShardCommit) -> Result<(), StoreError> {
        let name = self.commit_log.place(super::COMMITS, shard, &commit.fingerprint);
        super::remove(&name).await?;
        self.commit_log.remove_own(commit, None).await
    }
}
