//! Heartbeats: this worker's own, and what those of the other workers tell.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{Seek, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use object_store::ObjectStoreExt;
use recaption_store::{Location, StoreError, StoreKind, open_lock_file};
use serde::Deserialize;

use crate::layout::WORKERS;

/// Time without progress after which a living worker's shards are processed by idle workers too.
const STUCK_AFTER: Duration = Duration::from_secs(8);
/// Shortest time between two listings of the workers.
const MIN_REFRESH: Duration = Duration::from_millis(250);

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
    /// Its last known progress, and when that was first seen.
    progress: Option<(String, Instant)>,
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
    lease: Duration,
    known: Mutex<Known>,
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
        let (known, progress) = (Mutex::default(), Mutex::default());
        Ok(Self { out: out.clone(), id, lease, known, progress, file })
    }

    pub(super) fn is_local(&self) -> bool {
        self.file.is_some()
    }

    /// Returns where this worker's heartbeat is.
    pub(super) fn own_heartbeat(&self) -> Location {
        heartbeat_location(&self.out, &self.id)
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
        let written = file.rewind().and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|e| StoreError::Record { url: location.url(), what: e.to_string() })
    }

    /// Lists the heartbeats and decides which workers live.
    pub(super) async fn refresh(&self) -> Result<(), StoreError> {
        let metas = self.out.child(WORKERS).list().await?;
        let listed: HashMap<String, DateTime<Utc>> = metas
            .iter()
            .filter_map(|m| Some((m.location.filename()?.strip_suffix(".json")?.to_owned(), m.last_modified)))
            .collect();
        let own = listed.get(&self.id).copied();
        let lease = TimeDelta::from_std(self.lease).unwrap_or(TimeDelta::MAX);
        let mut known = self.known();
        known.peers.retain(|id, _| listed.contains_key(id));
        for (id, modified) in listed.into_iter().filter(|(id, _)| *id != self.id) {
            let new = Peer { modified, since: Instant::now(), is_expired: false, progress: None };
            let peer = known.peers.entry(id).or_insert(new);
            if peer.modified != modified {
                (peer.modified, peer.since) = (modified, Instant::now());
            }
            peer.is_expired =
                own.is_some_and(|own| own - modified > lease) || peer.since.elapsed() > self.lease;
        }
        known.refreshed = Some(Instant::now());
        Ok(())
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

    /// Returns whether a worker's file is not locked: its process has ended.
    fn is_unlocked(&self, id: &str) -> bool {
        if self.file.is_none() {
            return false;
        }
        let path = heartbeat_location(&self.out, id).local_path();
        File::open(path).is_ok_and(|file| file.try_lock_shared().is_ok())
    }

    pub(super) async fn is_alive(&self, id: &str) -> Result<bool, StoreError> {
        let last_known = || {
            let known = self.known();
            let fresh = known.refreshed.is_some_and(|at| at.elapsed() < MIN_REFRESH);
            (known.peers.get(id).map(|peer| peer.is_expired), fresh)
        };
        let is_expired = match last_known() {
            (Some(false), _) => false,
            (Some(true), true) => true,
            // An unknown worker may have joined since the last listing.
            _ => {
                self.refresh().await?;
                last_known().0.unwrap_or(true)
            }
        };
        Ok(!is_expired && !self.is_unlocked(id))
    }

    /// Returns whether a living worker was seen without progress for [`STUCK_AFTER`].
    pub(super) async fn is_stuck(&self, id: &str) -> Result<bool, StoreError> {
        let location = heartbeat_location(&self.out, id);
        let Ok(Some(heartbeat)) = recaption_store::read_json::<Heartbeat>(&location).await else {
            return Ok(false);
        };
        let mut known = self.known();
        let Some(peer) = known.peers.get_mut(id) else { return Ok(false) };
        match &peer.progress {
            Some((progress, since)) if *progress == heartbeat.progress => Ok(since.elapsed() > STUCK_AFTER),
            _ => {
                peer.progress = Some((heartbeat.progress, Instant::now()));
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
    }
}
