//! `--lock`: one run at a time over an output, for cron. A lock that a dead run left behind does not stay.
//!
//! On this machine's file system it is the kernel's own lock on `_recaption/lock.json`, which ends with the process that
//! holds it, however it ends. In a bucket it is a lease: an object with an expiry, put on conditions, renewed while the run
//! lives and taken over when it is past. Runs without `--lock` do not look at it; they are safe side by side anyway, and only
//! waste time.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use recaption_output::commits::open_plain;
use recaption_store::{Lease, LeaseError, Location, StoreKind};
use serde::{Deserialize, Serialize};

/// The lock's place below the output.
const LOCK: &str = "_recaption/lock.json";
/// Longest that a run waits at its end for a renewal that is on its way, and for the store to take the lock back.
const GIVING_BACK: Duration = Duration::from_secs(30);
/// Renewals within the time after which a lease is past.
const RENEWALS: u32 = 4;

/// What the lock says of the run that holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Holder {
    /// Process id.
    process: u32,
    /// When the run took it.
    since: DateTime<Utc>,
    /// When it is past unless it is renewed; a kernel's lock never is.
    expires: Option<DateTime<Utc>>,
    /// Tells this writing from every other.
    nonce: u64,
}

impl Holder {
    fn new(seconds: Option<u64>) -> Self {
        let now = Utc::now();
        let expires = seconds.map(|seconds| now + Duration::from_secs(seconds));
        Self { process: std::process::id(), since: now, expires, nonce: fastrand::u64(..) }
    }

    fn words(&self) -> String {
        let since = self.since.format("%Y-%m-%d %H:%M:%S UTC");
        match self.expires {
            None => format!("process {} since {since}", self.process),
            Some(expires) => {
                format!(
                    "process {} since {since}, until {} at least",
                    self.process,
                    expires.format("%H:%M:%S")
                )
            }
        }
    }
}

/// What came of the wish for the lock.
pub enum Locked {
    /// This run has it, until it is given back.
    Here(RunLock),
    /// Another run has it.
    Elsewhere {
        /// Who, in words.
        holder: String,
    },
}

/// A lock that is held.
pub enum RunLock {
    /// The kernel's, with the open file.
    File(#[allow(dead_code, reason = "held, not read")] File),
    /// A lease that a task renews.
    Lease {
        /// The object.
        lease: Arc<tokio::sync::Mutex<Lease>>,
        /// The task.
        renewing: tokio::task::JoinHandle<()>,
    },
}

/// Tries to take the lock of `output`; a lease is past after `seconds` without renewal.
///
/// # Errors
/// When the file system or the store cannot lock.
pub async fn lock(output: &Location, seconds: u64) -> anyhow::Result<Locked> {
    match output.kind {
        StoreKind::Local => lock_file(output),
        _ => lock_object(output, seconds).await,
    }
}

fn lock_file(output: &Location) -> anyhow::Result<Locked> {
    let path = output.child(LOCK).local_path();
    let failed = || format!("the lock {} cannot be taken", path.display());
    let mut file = open_plain(&path).with_context(failed)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).with_context(failed)?;
            file.rewind().with_context(failed)?;
            file.write_all(&serde_json::to_vec_pretty(&Holder::new(None))?).with_context(failed)?;
            Ok(Locked::Here(RunLock::File(file)))
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The holder may be about to write it.
            let _ = file.read_to_string(&mut text);
            let holder = serde_json::from_str::<Holder>(&text).map_or("another run".into(), |h| h.words());
            Ok(Locked::Elsewhere { holder })
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}

async fn lock_object(output: &Location, seconds: u64) -> anyhow::Result<Locked> {
    let place = output.child(LOCK);
    let is_past = |bytes: &[u8], age: TimeDelta| {
        // What is no lock of ours holds nothing. How long it is good for is told by its own two times, which are one clock's.
        let lease = serde_json::from_slice::<Holder>(bytes).ok().and_then(|h| Some(h.expires? - h.since));
        lease.is_none_or(|lease| age >= lease)
    };
    let lease = match Lease::take(&place, content_of(seconds)?, is_past).await {
        Ok(lease) => Arc::new(tokio::sync::Mutex::new(lease)),
        Err(LeaseError::Taken(bytes)) => {
            let holder = serde_json::from_slice::<Holder>(&bytes).map_or("another run".into(), |h| h.words());
            return Ok(Locked::Elsewhere { holder });
        }
        Err(LeaseError::Store(error)) => {
            return Err(error)
                .context("the lock cannot be taken: --lock needs a store with conditional puts");
        }
    };
    let renewed = Arc::clone(&lease);
    let renewing = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(seconds) / RENEWALS).await;
            let Ok(bytes) = content_of(seconds) else { return };
            match renewed.lock().await.renew(bytes).await {
                Ok(()) => {}
                Err(LeaseError::Taken(_)) => {
                    tracing::warn!(
                        "another run took the lock over, because this one did not renew it in time"
                    );
                    return;
                }
                Err(LeaseError::Store(error)) => tracing::warn!(%error, "the lock could not be renewed"),
            }
        }
    });
    Ok(Locked::Here(RunLock::Lease { lease, renewing }))
}

fn content_of(seconds: u64) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(&Holder::new(Some(seconds)))
}

impl RunLock {
    /// Gives the lock back.
    pub async fn release(self) {
        let Self::Lease { lease, renewing } = self else { return };
        let give_back = async {
            // A renewal on its way is waited for: given up, it might still arrive, and keep others out.
            let mut lease = lease.lock().await;
            renewing.abort();
            let past = content_of(0).map_err(anyhow::Error::new)?;
            lease.renew(past).await.map_err(anyhow::Error::new)
        };
        match tokio::time::timeout(GIVING_BACK, give_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lock was not given back; it ends by itself"),
            Err(_) => tracing::warn!("the lock was not given back in time; it ends by itself"),
        }
        renewing.abort();
    }
}
