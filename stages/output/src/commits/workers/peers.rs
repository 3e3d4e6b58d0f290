//! Heartbeats: this worker's own, and what those of the other workers tell.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{ErrorKind, Seek, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use object_store::{Error, ObjectStoreExt};
use recaption_store::{Location, StoreError, StoreKind, open_lock_file};
use serde::Deserialize;
use tokio::time::Instant;

use super::timing::{MIN_REFRESH, Timing};
use crate::layout::WORKERS;

/// Pause between two looks at workers that were not heard of again yet.
const SETTLE_POLL: Duration = Duration::from_millis(500);

/// The content of a heartbeat.
#[derive(Deserialize)]
struct Heartbeat {
    progress: String,
}

/// Returns a number that grows while this worker makes progress.
pub(super) type Progress = Box<dyn Fn() -> u64 + Send + Sync>;

/// Another worker.
struct Peer {
    /// Time of its last heartbeat, by the store's clock.
    modified: DateTime<Utc>,
    /// When `modified` was first seen, by this machine's clock.
    since: Instant,
    /// Whether its last heartbeat is too old. On a file system a worker that is not expired is dead all the same once its file
    /// is not locked, which is looked up each time: a worker that joins creates its file a moment before it locks it.
    is_expired: bool,
    /// Its last known progress.
    progress: Option<SeenProgress>,
}

impl Peer {
    fn new(modified: DateTime<Utc>) -> Self {
        Self { modified, since: Instant::now(), is_expired: false, progress: None }
    }
}

/// What a worker's heartbeat said of its progress.
struct SeenProgress {
    progress: String,
    /// When this progress was first seen.
    since: Instant,
    /// When the heartbeat was last read.
    read: Instant,
}

#[derive(Default)]
struct Known {
    peers: HashMap<String, Peer>,
    refreshed: Option<Instant>,
}

/// The workers of an output, as this one sees them.
pub(super) struct Peers {
    pub(super) out: Location,
    /// This worker's id.
    pub(super) id: String,
    pub(super) timing: Timing,
    known: Mutex<Known>,
    /// Held during a listing: readers that need one at the same time share it.
    listing: tokio::sync::Mutex<()>,
    progress: Mutex<Option<Progress>>,
    /// On a file system: this worker's heartbeat file, with the kernel's lock.
    file: Option<Mutex<File>>,
}

impl Peers {
    /// Chooses an id and, on a file system, locks the heartbeat file.
    pub(super) fn join(out: &Location, lease: Duration) -> Result<Self, StoreError> {
        let id = format!("{:08x}-{:016x}", std::process::id(), fastrand::u64(..));
        let file = match out.kind {
            StoreKind::Local => Some(Mutex::new(locked(&heartbeat_location(out, &id))?)),
            _ => None,
        };
        let timing = Timing::new(lease, file.is_some());
        let (known, listing, progress) = (Mutex::default(), tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { out: out.clone(), id, timing, known, listing, progress, file })
    }

    pub(super) fn is_local(&self) -> bool {
        self.file.is_some()
    }

    /// Returns where this worker's heartbeat is.
    pub(super) fn own_heartbeat(&self) -> Location {
        heartbeat_location(&self.out, &self.id)
    }

    /// Returns where the heartbeats of all other workers are that were listed, dead ones too.
    pub(super) fn heartbeats(&self) -> Vec<object_store::path::Path> {
        self.known().peers.keys().map(|id| heartbeat_location(&self.out, id).path).collect()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_others(&self) -> bool {
        self.others() > 0
    }

    pub(super) fn others(&self) -> usize {
        self.known().peers.iter().filter(|(id, peer)| !peer.is_expired && !self.is_unlocked(id)).count()
    }

    pub(super) fn report_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    fn current_progress(&self) -> u64 {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.as_ref().map_or(0, |progress| progress())
    }

    /// Writes this worker's heartbeat.
    pub(super) async fn send_heartbeat(&self) -> Result<(), StoreError> {
        let location = self.own_heartbeat();
        let progress = self.current_progress();
        // Of constant length: on a file system it overwrites the last one.
        let nonce = fastrand::u32(1_000_000_000..2_000_000_000);
        let text =
            format!("{{\"worker\":\"{}\",\"progress\":\"{progress:020}\",\"nonce\":{nonce}}}\n", self.id);
        let Some(file) = &self.file else {
            let put = location.store.put(&location.path, text.into_bytes().into()).await;
            return put.map(drop).map_err(|source| StoreError::Store { url: location.url(), source });
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if !location.local_path().exists() {
            // Somebody deleted it: a worker without a file is dead to all others.
            *file = locked(&location)?;
        }
        let written = file.rewind().and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|e| StoreError::Record { url: location.url(), what: e.to_string() })
    }

    /// Lists the heartbeats and decides which workers live.
    pub(super) async fn refresh(&self) -> Result<(), StoreError> {
        let folder = self.out.child(WORKERS);
        let listed = folder.list_as(|meta| {
            Some((meta.location.filename()?.strip_suffix(".json")?.to_owned(), meta.last_modified))
        });
        let listed: HashMap<String, DateTime<Utc>> = listed.await?.into_iter().collect();
        let own = listed.get(&self.id).copied();
        let lease = TimeDelta::from_std(self.timing.lease).unwrap_or(TimeDelta::MAX);
        let mut known = self.known();
        known.peers.retain(|id, _| listed.contains_key(id));
        for (id, modified) in listed.into_iter().filter(|(id, _)| *id != self.id) {
            let peer = known.peers.entry(id).or_insert_with(|| Peer::new(modified));
            if peer.modified != modified {
                (peer.modified, peer.since, peer.is_expired) = (modified, Instant::now(), false);
            }
            // What has expired stays so, also once this worker has left and has no heartbeat to compare with.
            peer.is_expired = peer.is_expired
                || own.is_some_and(|own| own - modified > lease)
                || peer.since.elapsed() > self.timing.lease;
        }
        known.refreshed = Some(Instant::now());
        Ok(())
    }

    /// As [`Peers::refresh`], if the last listing is older than `age`, which may depend on the number of other workers.
    pub(super) async fn refresh_if_older(&self, age: impl Fn(usize) -> Duration) -> Result<(), StoreError> {
        let is_old = || {
            let known = self.known();
            let (refreshed, peers) = (known.refreshed, known.peers.len());
            drop(known); // `age` may ask for it
            refreshed.is_none_or(|at| at.elapsed() >= age(peers))
        };
        if !is_old() {
            return Ok(());
        }
        let _listing = self.listing.lock().await;
        if is_old() { self.refresh().await } else { Ok(()) }
    }

    /// Waits until every other worker was heard of again or counts as dead; at most for the lease. Returns the number of those
    /// that live.
    pub(super) async fn settle(&self) -> Result<usize, StoreError> {
        let times = || -> HashMap<String, DateTime<Utc>> {
            let known = self.known();
            let living = known.peers.iter().filter(|(id, peer)| !peer.is_expired && !self.is_unlocked(id));
            living.map(|(id, peer)| (id.clone(), peer.modified)).collect()
        };
        self.refresh().await?;
        let first = times();
        loop {
            let now = times();
            let is_silent = |(id, modified): (&String, &DateTime<Utc>)| now.get(id) == Some(modified);
            // On a file system the kernel knows.
            if self.is_local() || !first.iter().any(is_silent) {
                return Ok(now.len());
            }
            tokio::time::sleep(SETTLE_POLL).await;
            self.refresh().await?;
        }
    }

    /// Returns whether a worker's file is not locked, as its process has ended, or is gone, as the worker has left.
    fn is_unlocked(&self, id: &str) -> bool {
        if self.file.is_none() {
            return false;
        }
        match File::open(heartbeat_location(&self.out, id).local_path()) {
            Ok(file) => file.try_lock_shared().is_ok(),
            Err(e) => e.kind() == ErrorKind::NotFound,
        }
    }

    /// Returns whether a worker lives, as far as the last listing tells; one that it takes for dead, or does not know, is looked
    /// at again.
    pub(super) async fn is_alive(&self, id: &str) -> Result<bool, StoreError> {
        let is_expired = || self.known().peers.get(id).map(|peer| peer.is_expired);
        if !self.is_local() {
            self.refresh_if_older(|peers| self.timing.listing(peers)).await?;
            return if is_expired() == Some(false) { Ok(true) } else { self.look_at(id).await };
        }
        if is_expired() != Some(false) {
            // An unknown worker may have joined since the last listing.
            let age = if is_expired().is_some() { MIN_REFRESH } else { Duration::ZERO };
            self.refresh_if_older(|_| age).await?;
        }
        Ok(is_expired() == Some(false) && !self.is_unlocked(id))
    }

    /// Asks a bucket for one worker's heartbeat: whether it is there, and newer than the one that expired.
    async fn look_at(&self, id: &str) -> Result<bool, StoreError> {
        let location = heartbeat_location(&self.out, id);
        let found = match location.store.head(&location.path).await {
            Ok(meta) => Some(meta.last_modified),
            Err(Error::NotFound { .. }) => None,
            Err(source) => return Err(StoreError::Store { url: location.url(), source }),
        };
        let mut known = self.known();
        let Some(modified) = found else {
            known.peers.remove(id);
            return Ok(false);
        };
        match known.peers.get(id) {
            Some(peer) if peer.modified == modified => Ok(!peer.is_expired),
            // It joined, or was heard of again, after the last listing.
            _ => {
                known.peers.insert(id.to_owned(), Peer::new(modified));
                Ok(true)
            }
        }
    }

    /// Returns whether a living worker was seen without progress for [`Timing::stuck_after`].
    pub(super) async fn is_stuck(&self, id: &str) -> Result<bool, StoreError> {
        let stuck = |seen: &SeenProgress| seen.since.elapsed() > self.timing.stuck_after();
        if let Some(seen) = self.known().peers.get(id).and_then(|peer| peer.progress.as_ref())
            && !self.is_local()
            && seen.read.elapsed() < self.timing.heartbeat()
        {
            return Ok(stuck(seen)); // no newer heartbeat is to be expected
        }
        let location = heartbeat_location(&self.out, id);
        let Ok(Some(heartbeat)) = recaption_store::read_json::<Heartbeat>(&location).await else {
            return Ok(false);
        };
        let mut known = self.known();
        let Some(peer) = known.peers.get_mut(id) else { return Ok(false) };
        let (Heartbeat { progress }, now) = (heartbeat, Instant::now());
        match &mut peer.progress {
            Some(seen) if seen.progress == progress => {
                seen.read = now;
                Ok(stuck(seen))
            }
            seen => {
                *seen = Some(SeenProgress { progress, since: now, read: now });
                Ok(false)
            }
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("out", &self.out).field("id", &self.id).finish_non_exhaustive()
    }
}

fn heartbeat_location(out: &Location, id: &str) -> Location {
    out.child(WORKERS).child(&format!("{id}.json"))
}

/// Creates and locks a worker's heartbeat file. Other workers lock it for a moment to see whether it is alive, and the last
/// one to leave deletes files that are not locked: a file that was deleted before it was locked is created again.
fn locked(location: &Location) -> Result<File, StoreError> {
    let failed = |e: std::io::Error| StoreError::Record { url: location.url(), what: e.to_string() };
    let path = location.local_path();
    loop {
        let file = open_lock_file(&path).map_err(failed)?;
        file.lock().map_err(failed)?;
        if path.try_exists().map_err(failed)? {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    /// A worker that joins creates its file a moment before it locks it; whoever looks in between must not take it for dead
    /// once it has joined.
    #[tokio::test]
    async fn workers_seen_before_their_lock_live_once_they_have_joined() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut stores = recaption_store::Stores::new(recaption_store::StoreSettings::default());
        let out = stores.locate(&folder.path().display().to_string()).expect("a location");
        let first = Peers::join(&out, LEASE).expect("joins");
        let joining = heartbeat_location(&out, "joining");
        let file = open_lock_file(&joining.local_path()).expect("a file");
        first.refresh().await.expect("listed");
        assert!(!first.has_others(), "nobody else holds a lock");
        file.lock().expect("locked");
        assert!(first.is_alive("joining").await.expect("known"));
        assert!(first.has_others());
        drop(file);
        assert!(!first.is_alive("joining").await.expect("known"));
        std::fs::remove_file(joining.local_path()).expect("removed");
        assert!(!first.is_alive("joining").await.expect("known"), "it left");
        assert!(!first.is_alive("unknown").await.expect("known"), "it was never there");
    }

    /// Returns an output in a bucket, and counts of its requests.
    fn bucket() -> (Location, std::sync::Arc<recaption_store::StoreCounters>) {
        let memory: std::sync::Arc<dyn object_store::ObjectStore> =
            std::sync::Arc::new(object_store::memory::InMemory::new());
        let mut stores = recaption_store::Stores::new(recaption_store::StoreSettings::default())
            .wrapped(std::sync::Arc::new(move |_| std::sync::Arc::clone(&memory)));
        (stores.locate("gs://bucket/out").expect("a location"), stores.counters())
    }

    #[tokio::test]
    async fn buckets_are_listed_only_when_the_last_listing_is_old() {
        let (out, counters) = bucket();
        let lists = || counters.requests(recaption_store::StoreOperation::List);
        let first = Peers::join(&out, LEASE).expect("joins");
        first.send_heartbeat().await.expect("sent");
        first.refresh().await.expect("listed");
        let later = Peers::join(&out, LEASE).expect("joins");
        assert!(!first.is_alive(&later.id).await.expect("asked"), "it has no heartbeat");
        later.send_heartbeat().await.expect("sent");
        for _ in 0..100 {
            assert!(first.is_alive(&later.id).await.expect("asked"), "it joined after the listing");
            assert!(!first.is_alive("unknown").await.expect("asked"));
        }
        assert!(first.has_others());
        assert_eq!(lists(), 1, "single workers are looked up");
        later.own_heartbeat().delete().await.expect("deleted");
        first.refresh_if_older(|_| Duration::ZERO).await.expect("listed");
        assert!(!first.is_alive(&later.id).await.expect("asked"), "it left");
        assert_eq!((lists(), first.others()), (2, 0));
    }

    #[tokio::test]
    async fn workers_that_expired_live_again_with_their_next_heartbeat() {
        let lease = Duration::from_millis(200);
        let (out, _) = bucket();
        let [first, silent] = [(); 2].map(|()| Peers::join(&out, lease).expect("joins"));
        silent.send_heartbeat().await.expect("sent");
        tokio::time::sleep(lease + lease / 2).await;
        first.send_heartbeat().await.expect("sent");
        assert!(!first.is_alive(&silent.id).await.expect("asked"), "its heartbeat is older than the lease");
        silent.send_heartbeat().await.expect("sent");
        assert!(first.is_alive(&silent.id).await.expect("asked"));
    }
}
