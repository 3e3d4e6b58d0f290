//! A lock over an output: at most one process holds it, and that of a dead process does not stay.
//!
//! On this machine's file system it is the kernel's lock on a file, which ends with the process that holds it, however it
//! ends. In a bucket it is a lease: an object with an expiry, put on conditions, renewed while the process lives and taken
//! over once it has expired.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    Location, StoreError, StoreKind,
    lease::{Lease, LeaseError},
    local::open_lock_file,
};

/// Longest wait, at release, for a renewal that is in flight and for the store.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);
/// Renewals within the duration of a lease.
const RENEWALS: u32 = 4;
/// Further attempts to acquire the lock of a file: [`lock_holder`] holds it for a moment too.
const FILE_RETRIES: u32 = 3;
/// Pause before each of them.
const FILE_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Why a lock can be neither acquired nor seen to be held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file system failed.
    #[error("{url}: the lock cannot be acquired: {source}")]
    File {
        /// The lock's URL.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store failed, or has no conditional puts.
    #[error("the lock cannot be acquired; it needs a store with conditional puts: {0}")]
    Store(#[from] StoreError),
}

/// Content of a lock: the process that holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Holder {
    /// Process id.
    process: u32,
    /// When the process acquired or renewed the lock.
    since: DateTime<Utc>,
    /// When the lock expires unless it is renewed; a kernel's lock never does.
    expires: Option<DateTime<Utc>>,
    /// Makes every write unique.
    nonce: u64,
}

impl Holder {
    fn new(lease: Option<Duration>) -> Self {
        let now = Utc::now();
        let expires = lease.map(|lease| now + lease);
        Self { process: std::process::id(), since: now, expires, nonce: fastrand::u64(..) }
    }

    fn description(&self) -> String {
        let since = self.since.format("%Y-%m-%d %H:%M:%S UTC");
        match self.expires {
            None => format!("process {} since {since}", self.process),
            Some(expires) => {
                let until = expires.format("%H:%M:%S");
                format!("process {} since {since}, until {until} at least", self.process)
            }
        }
    }

    fn described(content: &[u8]) -> String {
        serde_json::from_slice::<Self>(content).map_or("another run".into(), |holder| holder.description())
    }
}

/// How an attempt to acquire a lock ended.
#[derive(Debug)]
pub enum LockAttempt {
    /// This process holds it until it is released.
    Acquired(RunLock),
    /// Another process holds it.
    HeldBy {
        /// Its process id and times, in one line.
        holder: String,
    },
}

/// A lock that is held.
#[derive(Debug)]
pub struct RunLock(Held);

#[derive(Debug)]
enum Held {
    /// The kernel's, with the open file.
    File(#[allow(dead_code, reason = "held, not read")] File),
    /// A lease, and the task that renews it.
    Lease { lease: Arc<tokio::sync::Mutex<Lease>>, renewing: tokio::task::JoinHandle<()> },
}

/// Tries to acquire the lock at `location`. In a bucket it expires after `lease` without renewal.
///
/// # Errors
/// Returns an error when the file system or the store cannot lock.
pub async fn lock(location: &Location, lease: Duration) -> Result<LockAttempt, LockError> {
    match location.kind {
        StoreKind::Local => lock_file_patiently(location)
            .await
            .map_err(|source| LockError::File { url: location.url(), source }),
        _ => lock_object(location, lease).await,
    }
}

/// Returns who holds the lock at `location`, if anyone does, without acquiring it. In a bucket its expiry is compared with this
/// machine's clock.
///
/// # Errors
/// Returns an error when the file system or the store cannot be read.
pub async fn lock_holder(location: &Location) -> Result<Option<String>, LockError> {
    if location.kind == StoreKind::Local {
        return holder_of_file(location).map_err(|source| LockError::File { url: location.url(), source });
    }
    let holder = crate::read_json::<Holder>(location).await?;
    Ok(holder.filter(|holder| holder.expires.is_some_and(|end| end > Utc::now())).map(|h| h.description()))
}

fn holder_of_file(location: &Location) -> std::io::Result<Option<String>> {
    let mut file = match File::open(location.local_path()) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut content = Vec::new();
            // The holder may be about to write it.
            let _ = file.read_to_end(&mut content);
            Ok(Some(Holder::described(&content)))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Tries to lock a file, more than once: whoever looks at the lock must not make a run believe that another one holds it.
async fn lock_file_patiently(location: &Location) -> std::io::Result<LockAttempt> {
    for _ in 0..FILE_RETRIES {
        let attempt = lock_file(location)?;
        if matches!(attempt, LockAttempt::Acquired(_)) {
            return Ok(attempt);
        }
        tokio::time::sleep(FILE_RETRY_PAUSE).await;
    }
    lock_file(location)
}

fn lock_file(location: &Location) -> std::io::Result<LockAttempt> {
    let mut file = open_lock_file(&location.local_path())?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&serde_json::to_vec_pretty(&Holder::new(None))?)?;
            Ok(LockAttempt::Acquired(RunLock(Held::File(file))))
        }
        Err(TryLockError::WouldBlock) => {
            let mut content = Vec::new();
            // The holder may be about to write it.
            let _ = file.read_to_end(&mut content);
            Ok(LockAttempt::HeldBy { holder: Holder::described(&content) })
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

async fn lock_object(location: &Location, duration: Duration) -> Result<LockAttempt, LockError> {
    let is_expired = |content: &[u8], age: TimeDelta| {
        // Unknown content locks nothing. The duration is the difference of its own two times, which are one clock's.
        let lease = serde_json::from_slice::<Holder>(content).ok().and_then(|h| Some(h.expires? - h.since));
        lease.is_none_or(|lease| age >= lease)
    };
    let lease = match Lease::acquire(location, content(location, duration)?, is_expired).await {
        Ok(lease) => Arc::new(tokio::sync::Mutex::new(lease)),
        Err(LeaseError::Held(bytes)) => return Ok(LockAttempt::HeldBy { holder: Holder::described(&bytes) }),
        Err(LeaseError::Store(error)) => return Err(error.into()),
    };
    let renewing = tokio::spawn(renew(Arc::clone(&lease), location.clone(), duration));
    Ok(LockAttempt::Acquired(RunLock(Held::Lease { lease, renewing })))
}

/// Renews a lease until another process takes it over.
async fn renew(lease: Arc<tokio::sync::Mutex<Lease>>, location: Location, duration: Duration) {
    loop {
        tokio::time::sleep(duration / RENEWALS).await;
        let Ok(bytes) = content(&location, duration) else { return };
        match lease.lock().await.renew(bytes).await {
            Ok(()) => {}
            Err(LeaseError::Held(_)) => {
                tracing::warn!("another run took over the lock: it had expired without renewal");
                return;
            }
            Err(LeaseError::Store(error)) => tracing::warn!(%error, "lock renewal failed; retrying"),
        }
    }
}

fn content(location: &Location, lease: Duration) -> Result<Vec<u8>, StoreError> {
    crate::to_json(location, &Holder::new(Some(lease)))
}

impl RunLock {
    /// Releases the lock. What fails is logged: the lock then expires.
    pub async fn release(self) {
        let Held::Lease { lease, renewing } = self.0 else { return };
        let release = async {
            // Waits for a renewal in flight: cancelled, it might still arrive and keep others out.
            let mut lease = lease.lock().await;
            renewing.abort();
            let expired = serde_json::to_vec_pretty(&Holder::new(Some(Duration::ZERO))).unwrap_or_default();
            lease.renew(expired).await
        };
        match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "lock not released; it will expire"),
            Err(_) => tracing::warn!("lock not released in time; it will expire"),
        }
        renewing.abort();
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::Stores;

    /// A location in a store in memory, which has conditional puts.
    fn in_bucket() -> Location {
        let memory: Arc<dyn object_store::ObjectStore> = Arc::new(InMemory::new());
        let mut stores = Stores::default().wrapped(Arc::new(move |_| Arc::clone(&memory)));
        let location = stores.locate("/out/lock.json").expect("a path");
        Location { kind: StoreKind::Bucket, ..location }
    }

    #[tokio::test]
    async fn file_locks_exclude_others_until_they_are_dropped() {
        let dir = tempfile::tempdir().expect("a folder");
        let location =
            Stores::default().locate(&dir.path().join("lock.json").to_string_lossy()).expect("a path");
        let first = lock(&location, Duration::from_secs(9)).await.expect("a lock");
        assert!(matches!(first, LockAttempt::Acquired(_)));
        match lock(&location, Duration::from_secs(9)).await.expect("an answer") {
            LockAttempt::HeldBy { holder } => {
                assert!(holder.starts_with(&format!("process {} since", std::process::id())), "{holder}");
            }
            LockAttempt::Acquired(_) => panic!("two locks on one file"),
        }
        let holder = lock_holder(&location).await.expect("an answer").expect("it is held");
        assert!(holder.starts_with(&format!("process {} since", std::process::id())), "{holder}");
        drop(first);
        assert_eq!(lock_holder(&location).await.expect("an answer"), None);
        assert!(matches!(lock(&location, Duration::ZERO).await, Ok(LockAttempt::Acquired(_))));
    }

    #[tokio::test]
    async fn looking_at_a_file_lock_keeps_nobody_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("lock.json");
        let location = Stores::default().locate(&path.to_string_lossy()).expect("a path");
        // What `lock_holder` has, for longer than it has it.
        let looking = open_lock_file(&path).expect("a file");
        looking.lock_shared().expect("a lock");
        let (attempt, ()) = tokio::join!(lock(&location, Duration::ZERO), async {
            tokio::time::sleep(FILE_RETRY_PAUSE / 2).await;
            drop(looking);
        });
        assert!(matches!(attempt.expect("an answer"), LockAttempt::Acquired(_)));
    }

    #[tokio::test]
    async fn leases_exclude_others_until_released() {
        let location = in_bucket();
        let LockAttempt::Acquired(first) = lock(&location, Duration::from_secs(60)).await.expect("a lease")
        else {
            panic!("nobody else is there");
        };
        let second = lock(&location, Duration::from_secs(60)).await.expect("an answer");
        assert!(matches!(second, LockAttempt::HeldBy { .. }), "{second:?}");
        assert!(lock_holder(&location).await.expect("an answer").is_some());
        first.release().await;
        assert_eq!(lock_holder(&location).await.expect("an answer"), None);
        assert!(matches!(lock(&location, Duration::from_secs(60)).await, Ok(LockAttempt::Acquired(_))));
    }

    #[tokio::test]
    async fn expired_leases_are_taken_over() {
        let location = in_bucket();
        crate::write_json(&location, &Holder::new(Some(Duration::ZERO))).await.expect("memory");
        assert!(matches!(lock(&location, Duration::from_secs(60)).await, Ok(LockAttempt::Acquired(_))));
    }
}
