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
    layout::{CLAIMS, REPLACEMENT_LOCK},
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
#[derive(Default, Serialize, Deserialize)]
struct Claim {
    worker: String,
    /// What of the shard is processed: a claim on another version of it is no claim on this one. Claims of
    /// earlier versions of the program do not say it.
    #[serde(default)]
    version: Option<String>,
}

impl Claim {
    /// Reads a claim. An incomplete one belongs to no worker.
    fn parse(claim: &[u8]) -> Self {
        serde_json::from_slice(claim).unwrap_or_default()
    }

    fn is_of(&self, version: &str) -> bool {
        self.version.as_ref().is_none_or(|claimed| claimed == version)
    }
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
    pub(super) async fn claim_or_take_over(
        &self,
        shard: &str,
        version: &str,
    ) -> Result<ClaimAttempt, StoreError> {
        let location = self.location(shard);
        let existing = match read_claim(&location).await {
            Ok(existing) => existing,
            Err(Error::NotFound { .. }) => return self.claim(shard, version).await,
            Err(source) => return Err(StoreError::Store { url: location.url(), source }),
        };
        let attempt = self.replace_unless_held(&location, &existing, version).await?;
        let worker = Claim::parse(&existing).worker;
        if attempt != ClaimAttempt::HeldByOther || !self.peers.is_stuck(&worker).await? {
            return Ok(attempt);
        }
        // One of those that watch it takes the claim, so that not all of them process the shard.
        if self.replace(&location, &existing, version).await? == ClaimAttempt::HeldByOther {
            return Ok(ClaimAttempt::HeldByOther);
        }
        tracing::info!(shard, worker, "the shard's worker makes no progress; processing it here too");
        Ok(ClaimAttempt::Inherited)
    }

    /// Returns the content of this worker's claims.
    fn claim_text(&self, version: &str) -> String {
        format!("{{\"worker\":\"{}\",\"version\":\"{version}\"}}\n", self.peers.id)
    }

    /// Claims this version of a shard unless a living worker has it.
    pub(super) async fn claim(&self, shard: &str, version: &str) -> Result<ClaimAttempt, StoreError> {
        let (location, text) = (self.location(shard), self.claim_text(version));
        if self.create(&location, &text).await? {
            return Ok(ClaimAttempt::Acquired);
        }
        match read_claim(&location).await {
            Ok(existing) => self.replace_unless_held(&location, &existing, version).await,
            // Released a moment ago.
            Err(Error::NotFound { .. }) => Ok(if self.create(&location, &text).await? {
                ClaimAttempt::Inherited
            } else {
                ClaimAttempt::HeldByOther
            }),
            Err(source) => Err(StoreError::Store { url: location.url(), source }),
        }
    }

    /// Replaces an existing claim by this worker's, unless a living worker has the same version.
    async fn replace_unless_held(
        &self,
        location: &Location,
        existing: &[u8],
        version: &str,
    ) -> Result<ClaimAttempt, StoreError> {
        let claim = Claim::parse(existing);
        if claim.is_of(version) {
            if claim.worker == self.peers.id {
                return Ok(ClaimAttempt::Acquired);
            }
            if self.peers.is_alive(&claim.worker).await? {
                return Ok(ClaimAttempt::HeldByOther);
            }
        }
        self.replace(location, existing, version).await
    }

    /// Replaces exactly this existing claim by this worker's.
    async fn replace(
        &self,
        location: &Location,
        existing: &[u8],
        version: &str,
    ) -> Result<ClaimAttempt, StoreError> {
        let text = self.claim_text(version);
        let lock = self.peers.out.child(REPLACEMENT_LOCK);
        match compare_and_swap(location, &digest_of(existing), text.as_bytes(), &lock).await? {
            SwapResult::Swapped | SwapResult::Missing => Ok(ClaimAttempt::Inherited),
            SwapResult::Mismatch(now) if now == text.as_bytes() => Ok(ClaimAttempt::Inherited),
            SwapResult::Mismatch(_) => Ok(ClaimAttempt::HeldByOther),
        }
    }

    /// Deletes this worker's claim; one that another worker has taken over stays.
    pub(super) async fn release(&self, shard: &str) -> Result<(), StoreError> {
        let location = self.location(shard);
        match read_claim(&location).await {
            Ok(existing) if Claim::parse(&existing).worker == self.peers.id => location.delete().await,
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::Store { url: location.url(), source }),
        }
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

    /// Deletes this worker's heartbeat and, if no other worker lives, all claims, and the heartbeats of the dead. The heartbeat goes
    /// first, so that of several workers that leave together the last one sees no other. Listing many claims takes its time: the
    /// heartbeat of a worker that joins meanwhile stays, and so do the claims.
    pub(super) async fn leave(&self) -> Result<(), StoreError> {
        let peers = &self.peers;
        // Which workers are dead is known by their heartbeats beside this worker's.
        peers.refresh().await?;
        peers.own_heartbeat().delete().await?;
        peers.refresh().await?;
        if peers.has_others() {
            return Ok(());
        }
        let dead = peers.heartbeats();
        let claims = peers.out.child(CLAIMS).list_as(|meta| Some(meta.location)).await?;
        peers.refresh().await?;
        if peers.has_others() {
            return Ok(());
        }
        let paths = stream::iter(claims.into_iter().chain(dead).map(Ok)).boxed();
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
