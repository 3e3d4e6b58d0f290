//! Claims of shards.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use recaption_store::{Location, RetryPolicy, StoreError};
use serde::{Deserialize, Serialize};

use super::peers::Peers;
use crate::{
    commits::compare_and_swap::{SwapResult, compare_and_swap},
    digest::digest_of,
    layout::{CLAIMS, REPLACEMENT_LOCK, WORKERS},
};

/// Further reads of an incomplete claim before it counts as abandoned: its writer is between two system calls.
const READ_RETRIES: RetryPolicy = RetryPolicy::new(10, Duration::from_millis(20), Duration::from_millis(20));

/// How an attempt to claim a shard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimAttempt {
    /// This worker has it.
    Acquired,
    /// This worker has it after one that is dead, stuck or gone: it may be done already.
    Inherited,
    /// Another worker has it.
    HeldByOther,
}

/// The content of a claim.
#[derive(Serialize, Deserialize)]
struct Claim {
    worker: String,
}

/// Claims shards for this worker.
#[derive(Debug)]
pub(super) struct Claims {
    peers: Arc<Peers>,
}

impl Claims {
    pub(super) fn new(peers: Arc<Peers>) -> Self {
        Self { peers }
    }

    fn location(&self, shard: &str) -> Location {
        self.peers.out.child(CLAIMS).child(&format!("{shard}.json"))
    }

    /// Claims a shard that another worker claimed, also if that worker lives but makes no progress. Reads the claim before it
    /// writes one: most likely it is still the other's.
    pub(super) async fn claim_or_take_over(&self, shard: &str) -> Result<ClaimAttempt, StoreError> {
        let location = self.location(shard);
        let existing = match read_claim(&location).await {
            Ok(existing) => existing,
            Err(Error::NotFound { .. }) => return self.claim(shard).await,
            Err(source) => return Err(StoreError::Store { url: location.url(), source }),
        };
        let worker = worker_of(&existing);
        if worker == self.peers.id || !self.peers.is_alive(&worker).await? {
            return self.replace_if_dead(&location, &existing).await;
        }
        if !self.peers.is_stuck(&worker).await? {
            return Ok(ClaimAttempt::HeldByOther);
        }
        // One of those that watch it takes the claim, so that not all of them process the shard.
        if self.replace(&location, &existing).await? == ClaimAttempt::HeldByOther {
            return Ok(ClaimAttempt::HeldByOther);
        }
        tracing::info!(shard, worker, "the shard's worker makes no progress; processing it here too");
        Ok(ClaimAttempt::Inherited)
    }

    /// Returns the content of this worker's claims.
    fn claim_text(&self) -> String {
        format!("{{\"worker\":\"{}\"}}\n", self.peers.id)
    }

    /// Claims a shard unless a living worker has it.
    pub(super) async fn claim(&self, shard: &str) -> Result<ClaimAttempt, StoreError> {
        let (location, text) = (self.location(shard), self.claim_text());
        if self.create(&location, &text).await? {
            return Ok(ClaimAttempt::Acquired);
        }
        match read_claim(&location).await {
            Ok(existing) => self.replace_if_dead(&location, &existing).await,
            // Released a moment ago.
            Err(Error::NotFound { .. }) => Ok(if self.create(&location, &text).await? {
                ClaimAttempt::Inherited
            } else {
                ClaimAttempt::HeldByOther
            }),
            Err(source) => Err(StoreError::Store { url: location.url(), source }),
        }
    }

    /// Replaces an existing claim by this worker's, unless a living worker has it.
    async fn replace_if_dead(
        &self,
        location: &Location,
        existing: &[u8],
    ) -> Result<ClaimAttempt, StoreError> {
        let worker = worker_of(existing);
        if worker == self.peers.id {
            return Ok(ClaimAttempt::Acquired);
        }
        if self.peers.is_alive(&worker).await? {
            return Ok(ClaimAttempt::HeldByOther);
        }
        self.replace(location, existing).await
    }

    /// Replaces exactly this existing claim by this worker's.
    async fn replace(&self, location: &Location, existing: &[u8]) -> Result<ClaimAttempt, StoreError> {
        let text = self.claim_text();
        let lock = self.peers.out.child(REPLACEMENT_LOCK);
        match compare_and_swap(location, &digest_of(existing), text.as_bytes(), &lock).await? {
            SwapResult::Swapped | SwapResult::Missing => Ok(ClaimAttempt::Inherited),
            SwapResult::Mismatch(now) if now == text.as_bytes() => Ok(ClaimAttempt::Inherited),
            SwapResult::Mismatch(_) => Ok(ClaimAttempt::HeldByOther),
        }
    }

    /// Deletes a claim.
    pub(super) async fn release(&self, shard: &str) -> Result<(), StoreError> {
        self.location(shard).delete().await
    }

    /// Puts a claim if there is none. Returns whether there was none. On a file system it is not synced: it need not
    /// outlive a power failure.
    async fn create(&self, location: &Location, text: &str) -> Result<bool, StoreError> {
        if self.peers.is_local() {
            let failed = |e: std::io::Error| StoreError::Record { url: location.url(), what: e.to_string() };
            return match create_file(location.local_path()) {
                Ok(mut file) => file.write_all(text.as_bytes()).map(|()| true).map_err(failed),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(failed(error)),
            };
        }
        let payload = text.to_owned().into_bytes().into();
        match location.store.put_opts(&location.path, payload, PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(StoreError::Store { url: location.url(), source }),
        }
    }

    /// Deletes this worker's heartbeat and, if no other worker lives, all claims and heartbeats.
    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        let peers = &self.peers;
        peers.refresh().await?;
        let mut paths = vec![peers.own_heartbeat().path];
        if !peers.has_others() {
            for folder in [CLAIMS, WORKERS] {
                paths.extend(peers.out.child(folder).list_as(|meta| Some(meta.location)).await?);
            }
        }
        let paths = stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut deleted = peers.out.store.delete_stream(paths);
        while let Some(one) = deleted.next().await {
            match one {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(source) => return Err(StoreError::Store { url: peers.out.url(), source }),
            }
        }
        Ok(())
    }
}

/// Returns the worker of a claim. An incomplete claim belongs to no worker.
fn worker_of(claim: &[u8]) -> String {
    serde_json::from_slice::<Claim>(claim).map(|claim| claim.worker).unwrap_or_default()
}

/// Reads a claim's bytes. On a file system a claim is created before it is written, so an incomplete one is read again.
async fn read_claim(location: &Location) -> object_store::Result<bytes::Bytes> {
    let mut budget = READ_RETRIES.budget();
    loop {
        let bytes = location.store.get(&location.path).await?.bytes().await?;
        if serde_json::from_slice::<Claim>(&bytes).is_ok() {
            return Ok(bytes);
        }
        let Some(pause) = budget.next_pause(None) else { return Ok(bytes) };
        tokio::time::sleep(pause).await;
    }
}

fn create_file(path: PathBuf) -> std::io::Result<File> {
    let open = |path: &PathBuf| OpenOptions::new().write(true).create_new(true).open(path);
    match open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            open(&path)
        }
        opened => opened,
    }
}
