//! Divides the shards of an output among its workers.
//!
//! A worker claims a shard by an object that names the worker, and rewrites its own heartbeat object as long as it lives.
//! Claims save work, nothing else: a shard that two workers process is still committed once. A worker counts as dead when the
//! store's times of its heartbeat and of the reader's own are too far apart, or when its heartbeat did not change for that
//! long; on a file system at once when the kernel's lock on its file is free. No other machine's clock is trusted.
//!
//! | module | content |
//! |---|---|
//! | `claims` | claims of shards |
//! | `peers` | heartbeats, this worker's and those of the others |
//! | `timing` | how often they are written and looked at |

mod claims;
mod peers;
mod timing;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use recaption_store::{Location, StoreError};

use claims::Claims;
use peers::Peers;

pub use claims::ClaimAttempt;

use crate::layout::CLAIMS;

/// The least share of the time between two heartbeats that one may take: workers that started together do not stay together.
const MIN_JITTER: f64 = 0.8;

/// This worker among the workers of an output.
#[derive(Debug)]
pub struct Workers {
    peers: Arc<Peers>,
    claims: Claims,
    heartbeat: tokio::task::JoinHandle<()>,
}

impl Workers {
    /// Joins the workers of the output at `out`. A worker without heartbeat for `lease` counts as dead. Must come before
    /// the output's records are listed.
    ///
    /// # Errors
    /// Returns an error when the output cannot be written.
    pub async fn join(out: &Location, lease: Duration) -> Result<Self, StoreError> {
        let peers = Arc::new(Peers::join(out, lease)?);
        peers.send_heartbeat().await?;
        peers.refresh().await?;
        let sender = Arc::clone(&peers);
        let heartbeat = tokio::spawn(async move {
            tokio::join!(send_heartbeats(&sender), list_workers(&sender));
        });
        Ok(Self { claims: Claims::new(Arc::clone(&peers)), peers, heartbeat })
    }

    /// Returns whether another worker lives, as far as the last listing tells: in a bucket that may be minutes old.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.peers.has_others()
    }

    /// Returns whether another worker lives now, by a new listing. Where the store fails one may live.
    pub async fn look_for_others(&self) -> bool {
        if let Err(error) = self.peers.refresh().await {
            tracing::debug!(%error, "workers not listed; another one may be alive");
            return true;
        }
        self.peers.has_others()
    }

    /// Waits until every other worker was heard of again, or counts as dead: one that died a moment ago has a young heartbeat.
    /// Takes the lease at most; on a file system nothing. Returns the number of other workers that live.
    ///
    /// # Errors
    /// Returns an error when the heartbeats cannot be listed.
    pub async fn settle(&self) -> Result<usize, StoreError> {
        self.peers.settle().await
    }

    /// Returns what counts the other workers, for an observer that may outlive this one.
    #[must_use]
    pub fn count(&self) -> WorkerCount {
        WorkerCount(Arc::downgrade(&self.peers))
    }

    /// Reports progress to the other workers, from now on: any number that grows while this worker makes progress.
    pub fn report_progress(&self, progress: impl Fn() -> u64 + Send + Sync + 'static) {
        self.peers.report_progress(Box::new(progress));
    }

    /// Claims a version of a shard unless a living worker has it. Where the store fails the shard is processed: claims are not
    /// locks. A version is any text without quotes that tells apart what is processed: claims stay until the last worker leaves,
    /// and that on an earlier version must not hold up the next.
    pub async fn claim(&self, shard: &str, version: &str) -> ClaimAttempt {
        match self.claims.claim(shard, version).await {
            Ok(attempt) => attempt,
            Err(error) => {
                tracing::debug!(shard, %error, "shard cannot be claimed; processing it anyway");
                ClaimAttempt::Inherited
            }
        }
    }

    /// Claims a shard for a worker that has nothing else to do: also one of a living worker without progress.
    pub async fn claim_or_take_over(&self, shard: &str, version: &str) -> ClaimAttempt {
        match self.claims.claim_or_take_over(shard, version).await {
            Ok(attempt) => attempt,
            Err(error) => {
                tracing::debug!(shard, %error, "shard cannot be claimed; processing it anyway");
                ClaimAttempt::Inherited
            }
        }
    }

    /// Returns the folder of the claims.
    pub(in crate::commits) fn claims_folder(&self) -> Location {
        self.peers.out.child(CLAIMS)
    }

    /// Returns the number of other workers that live.
    #[must_use]
    pub fn others(&self) -> usize {
        self.peers.others()
    }

    /// Releases the claim of a shard that is not done.
    pub async fn release(&self, shard: &str) {
        if let Err(error) = self.claims.release(shard).await {
            tracing::debug!(shard, %error, "claim not released");
        }
    }

    /// Leaves the workers. The last worker deletes all claims: until then another may not know what this one did.
    pub async fn leave(self) {
        self.heartbeat.abort();
        if let Err(error) = self.claims.leave().await {
            tracing::debug!(%error, "claims and heartbeat not deleted");
        }
    }
}

/// Counts the workers of an output, as one of them knows them.
#[derive(Clone, Debug)]
pub struct WorkerCount(Weak<Peers>);

impl WorkerCount {
    /// Returns the number of other workers that live; 0 once the worker has left.
    #[must_use]
    pub fn others(&self) -> usize {
        self.0.upgrade().map_or(0, |peers| peers.others())
    }
}

/// Sends heartbeats for ever. One that is not answered is given up for the next, so that it costs no lease.
async fn send_heartbeats(peers: &Peers) {
    loop {
        let jitter = MIN_JITTER + (1.0 - MIN_JITTER) * fastrand::f64();
        tokio::time::sleep(peers.timing.heartbeat().mul_f64(jitter)).await;
        let error = match tokio::time::timeout(peers.timing.heartbeat(), peers.send_heartbeat()).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no response".to_owned(),
        };
        tracing::debug!(error, "heartbeat failed; other workers may take this one for dead");
    }
}

/// Lists the workers for ever: on its own, since a listing may take longer than a lease.
async fn list_workers(peers: &Peers) {
    loop {
        tokio::time::sleep(peers.timing.heartbeat()).await;
        if let Err(error) =
            peers.refresh_if_older(|peers_known| peers.timing.background_listing(peers_known)).await
        {
            tracing::debug!(%error, "workers not listed");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}
