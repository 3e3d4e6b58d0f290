//! Workers that share an output divide its shards: each takes a shard by a note that says whose it is, and is heard of as
//! long as it lives. Notes save work and nothing else: a shard that two workers did is still committed once.
//!
//! A worker is heard of by an object that it puts again and again. It is taken for dead when the store's own times, of its
//! object and of the asker's, lie too far apart, or when it was watched for that long and nothing came; on a file system at
//! once when the kernel's lock on its file is free. No other machine's clock is believed.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{ErrorKind, Seek, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};

use super::{
    exchange::{Exchanged, exchange, open_plain},
    survey::sum_of,
};
use recaption_store::{Location, StoreError, StoreKind};

/// Folder, below the output, of the workers that are at work.
pub const WORKERS: &str = "_recaption/workers";
/// Folder, below the output, of the notes that say whose a shard is.
pub const CLAIMS: &str = "_recaption/claims";
/// Signs of life within the time after which a worker is taken for dead.
const BEATS: u32 = 4;
/// Longest time between two.
const BEAT: Duration = Duration::from_secs(2);
/// Reads of a claim that is incomplete, before it counts as abandoned.
const NOTE_READS: u32 = 10;
/// Pause between them: its writer is between two system calls.
const NOTE_PAUSE: Duration = Duration::from_millis(10);
/// Time in which a worker that gets on is seen to: who does not, though it lives, is helped by those who have nothing to do.
const STUCK: Duration = Duration::from_secs(8);
/// Shortest time between two looks at the other workers.
const LOOK: Duration = Duration::from_millis(250);

/// Whose a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// This worker's.
    Here,
    /// This worker's, after one that is dead or gone: it may be done already.
    Inherited,
    /// Another's.
    Elsewhere,
}

#[derive(Serialize, Deserialize)]
struct Note {
    worker: String,
}

/// What a worker says of itself.
#[derive(Deserialize)]
struct Life {
    progress: String,
}

/// Counts what a worker did.
type Count = Box<dyn Fn() -> u64 + Send + Sync>;

/// What is known of another worker.
struct Peer {
    /// When it was last heard of, by the store's clock.
    modified: DateTime<Utc>,
    /// Since when that is so, by this machine's.
    since: Instant,
    alive: bool,
    /// What it had done when it was asked last, and since when that is so.
    progress: Option<(String, Instant)>,
}

#[derive(Default)]
struct Peers {
    known: HashMap<String, Peer>,
    looked: Option<Instant>,
}

struct Shared {
    out: Location,
    id: String,
    lease: Duration,
    peers: Mutex<Peers>,
    done: Mutex<Option<Count>>,
    /// On a file system: this worker's file, with the kernel's lock.
    file: Option<Mutex<File>>,
}

/// This worker among the others of an output.
pub struct Workers {
    shared: Arc<Shared>,
    beating: tokio::task::JoinHandle<()>,
}

impl Workers {
    /// Joins the workers of `out`; whoever is not heard of for `lease` is taken for dead. To be done before the output's
    /// records are listed.
    ///
    /// # Errors
    /// When the output cannot be written to.
    pub async fn join(out: &Location, lease: Duration) -> Result<Self, StoreError> {
        let id = format!("{:08x}-{:016x}", std::process::id(), fastrand::u64(..));
        let file = match out.kind {
            StoreKind::Local => Some(Mutex::new(locked(&out.child(WORKERS).child(&format!("{id}.json")))?)),
            _ => None,
        };
        let peers = Mutex::new(Peers::default());
        let shared = Arc::new(Shared { out: out.clone(), id, lease, peers, done: Mutex::new(None), file });
        shared.beat().await?;
        shared.look().await?;
        let beaten = Arc::clone(&shared);
        let beating = tokio::spawn(async move {
            loop {
                tokio::time::sleep((beaten.lease / BEATS).min(BEAT)).await;
                let beat = async {
                    beaten.beat().await?;
                    beaten.look().await
                };
                if let Err(error) = beat.await {
                    tracing::debug!(%error, "other workers may take this one for dead");
                }
            }
        });
        Ok(Self { shared, beating })
    }

    /// Whether another worker lives.
    #[must_use]
    pub fn are_others(&self) -> bool {
        let peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.known.values().any(|peer| peer.alive)
    }

    /// Tells others, from now on, how much was done: any number that grows while this worker gets on.
    pub fn tell(&self, done: impl Fn() -> u64 + Send + Sync + 'static) {
        *self.shared.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(done));
    }

    /// As [`Workers::take`], for a worker that has nothing else to do: also takes what a living worker has that does not get on.
    pub async fn help(&self, shard: &str) -> Taken {
        match self.shared.help(shard).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(shard, %error, "whose the shard is cannot be asked");
                Taken::Inherited
            }
        }
    }

    /// Takes a shard, if no living worker has it. What the store refuses is taken: notes are no locks.
    pub async fn take(&self, shard: &str) -> Taken {
        match self.shared.take(shard).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(shard, %error, "whose the shard is cannot be written down");
                Taken::Inherited
            }
        }
    }

    /// Gives a shard back that was not done.
    pub async fn give_back(&self, shard: &str) {
        if let Err(error) = super::remove(&self.shared.note(shard)).await {
            tracing::debug!(shard, %error, "a shard could not be given back");
        }
    }

    /// Leaves: notes go with the last worker, since another one may not know yet what this one did.
    pub async fn leave(self) {
        self.beating.abort();
        if let Err(error) = self.shared.leave().await {
            tracing::debug!(%error, "what this worker wrote down of its shards could not be removed");
        }
    }
}

impl Shared {
    fn own(&self) -> Location {
        self.out.child(WORKERS).child(&format!("{}.json", self.id))
    }

    fn note(&self, shard: &str) -> Location {
        self.out.child(CLAIMS).child(&format!("{shard}.json"))
    }

    /// Gives a sign of life.
    async fn beat(&self) -> Result<(), StoreError> {
        let place = self.own();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |done| done());
        // Of one length: on a file system it is written over the last one.
        let nonce = fastrand::u32(1_000_000_000..2_000_000_000);
        let text = format!("{{\"worker\":\"{}\",\"progress\":\"{done:020}\",\"nonce\":{nonce}}}\n", self.id);
        let Some(file) = &self.file else {
            let put = place.store.put(&place.path, text.into_bytes().into()).await;
            return put.map(drop).map_err(|source| StoreError::Store { url: place.url(), source });
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.rewind().and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|e| StoreError::Record { url: place.url(), what: e.to_string() })
    }

    /// Looks who else is at work.
    async fn look(&self) -> Result<(), StoreError> {
        let metas = self.out.child(WORKERS).list().await?;
        let heard: HashMap<String, DateTime<Utc>> = metas
            .iter()
            .filter_map(|m| Some((m.location.filename()?.strip_suffix(".json")?.to_owned(), m.last_modified)))
            .collect();
        let own = heard.get(&self.id).copied();
        let lease = TimeDelta::from_std(self.lease).unwrap_or(TimeDelta::MAX);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.known.retain(|id, _| heard.contains_key(id));
        for (id, modified) in heard.into_iter().filter(|(id, _)| *id != self.id) {
            let peer = peers.known.entry(id.clone()).or_insert(Peer {
                modified,
                since: Instant::now(),
                alive: true,
                progress: None,
            });
            if peer.modified != modified {
                (peer.modified, peer.since) = (modified, Instant::now());
            }
            let old = own.is_some_and(|own| own - modified > lease) || peer.since.elapsed() > self.lease;
            peer.alive = !old && !self.is_unlocked(&id);
        }
        peers.looked = Some(Instant::now());
        Ok(())
    }

    /// Whether the kernel says that the process of a worker has ended.
    fn is_unlocked(&self, id: &str) -> bool {
        if self.file.is_none() {
            return false;
        }
        let path = self.out.child(WORKERS).child(&format!("{id}.json")).local_path();
        File::open(path).is_ok_and(|file| file.try_lock_shared().is_ok())
    }

    async fn is_alive(&self, id: &str) -> Result<bool, StoreError> {
        let known = || {
            let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = peers.looked.is_some_and(|at| at.elapsed() < LOOK);
            (peers.known.get(id).map(|peer| peer.alive), fresh)
        };
        match known() {
            // A kernel knows at once.
            (Some(true), _) => Ok(!self.is_unlocked(id)),
            (Some(false), true) => Ok(false),
            // One that is not known may have joined since the last look.
            _ => {
                self.look().await?;
                Ok(known().0.unwrap_or(false))
            }
        }
    }

    /// Whether a living worker was watched for long enough and did nothing.
    async fn is_stuck(&self, id: &str) -> Result<bool, StoreError> {
        let place = self.out.child(WORKERS).child(&format!("{id}.json"));
        let Ok(Some(life)) = recaption_store::read_json::<Life>(&place).await else { return Ok(false) };
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(peer) = peers.known.get_mut(id) else { return Ok(false) };
        match &peer.progress {
            Some((progress, since)) if *progress == life.progress => Ok(since.elapsed() > STUCK),
            _ => {
                peer.progress = Some((life.progress, Instant::now()));
                Ok(false)
            }
        }
    }

    async fn help(&self, shard: &str) -> Result<Taken, StoreError> {
        let taken = self.take(shard).await?;
        if taken != Taken::Elsewhere {
            return Ok(taken);
        }
        let place = self.note(shard);
        let worker = recaption_store::read_json::<Note>(&place).await.ok().flatten().map(|note| note.worker);
        let Some(worker) = worker else { return Ok(Taken::Elsewhere) };
        if !self.is_stuck(&worker).await? {
            return Ok(Taken::Elsewhere);
        }
        tracing::info!(shard, worker, "its worker does not get on; it is done here too");
        Ok(Taken::Inherited)
    }

    async fn take(&self, shard: &str) -> Result<Taken, StoreError> {
        let (place, text) = (self.note(shard), format!("{{\"worker\":\"{}\"}}\n", self.id));
        if self.create(&place, &text).await? {
            return Ok(Taken::Here);
        }
        let there = match self.read_note(&place).await {
            Ok(there) => there,
            // Given back a moment ago.
            Err(Error::NotFound { .. }) => {
                return Ok(if self.create(&place, &text).await? {
                    Taken::Inherited
                } else {
                    Taken::Elsewhere
                });
            }
            Err(source) => return Err(StoreError::Store { url: place.url(), source }),
        };
        // A note that is cut is nobody's.
        let worker = serde_json::from_slice::<Note>(&there).map(|note| note.worker).unwrap_or_default();
        if worker == self.id {
            return Ok(Taken::Here);
        }
        if self.is_alive(&worker).await? {
            return Ok(Taken::Elsewhere);
        }
        let lock = self.out.child("_recaption/records.lock");
        match exchange(&place, &sum_of(&there), text.as_bytes(), &lock).await? {
            Exchanged::Done | Exchanged::Gone => Ok(Taken::Inherited),
            Exchanged::Other(now) if now == text.as_bytes() => Ok(Taken::Inherited),
            Exchanged::Other(_) => Ok(Taken::Elsewhere),
        }
    }

    /// A claim's bytes. On a file system it is created before it is written, so one that is incomplete is read again.
    async fn read_note(&self, place: &Location) -> object_store::Result<bytes::Bytes> {
        for _ in 0..NOTE_READS {
            let there = place.store.get(&place.path).await?.bytes().await?;
            if serde_json::from_slice::<Note>(&there).is_ok() {
                return Ok(there);
            }
            tokio::time::sleep(NOTE_PAUSE).await;
        }
        place.store.get(&place.path).await?.bytes().await
    }

    /// Puts a note where there is none. On a file system without a sync: it need not outlive the power.
    async fn create(&self, place: &Location, text: &str) -> Result<bool, StoreError> {
        if self.file.is_some() {
            let path = place.local_path();
            let failed = |e: std::io::Error| StoreError::Record { url: place.url(), what: e.to_string() };
            return match create_new(path) {
                Ok(mut file) => file.write_all(text.as_bytes()).map(|()| true).map_err(failed),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(failed(error)),
            };
        }
        match place
            .store
            .put_opts(&place.path, text.to_owned().into_bytes().into(), PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(StoreError::Store { url: place.url(), source }),
        }
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.look().await?;
        let alone = {
            let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            !peers.known.values().any(|peer| peer.alive)
        };
        let mut gone = vec![self.own().path];
        if alone {
            for folder in [CLAIMS, WORKERS] {
                let metas = self.out.child(folder).list().await?;
                gone.extend(metas.into_iter().map(|meta| meta.location));
            }
        }
        let gone = stream::iter(gone.into_iter().map(Ok)).boxed();
        let mut removed = self.out.store.delete_stream(gone);
        while let Some(one) = removed.next().await {
            match one {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(source) => return Err(StoreError::Store { url: self.out.url(), source }),
            }
        }
        Ok(())
    }
}

fn create_new(path: PathBuf) -> std::io::Result<File> {
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

/// This worker's file, locked. Others lock it for a moment to see whether it is alive.
fn locked(place: &Location) -> Result<File, StoreError> {
    let failed = |e: std::io::Error| StoreError::Record { url: place.url(), what: e.to_string() };
    let file = open_plain(&place.local_path()).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.beating.abort();
    }
}
