//! The objects of the bucket, and its clock.
//!
//! The input shards are not stored: they are computed from their number, so that a million of them cost no memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use object_store::{Error, ListResult, ObjectMeta, PutMode, PutResult, Result, path::Path};
use tokio::time::Instant;

use super::limits::{RateLimits, RequestKind, Traffic};

/// Keys of one page of a listing.
pub(crate) const PAGE: usize = 1000;
/// Folder of the input shards.
pub(crate) const INPUTS: &str = "in";
/// 2026-01-01, the time at which every simulation begins.
const EPOCH: i64 = 1_767_225_600;

/// The input shards: `in/00000000.tar` and so on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs {
    /// Number of shards.
    pub shards: usize,
    /// Bytes of each.
    pub bytes: u64,
}

impl Inputs {
    /// Returns the key of a shard.
    pub(crate) fn key(number: usize) -> String {
        format!("{INPUTS}/{number:08}.tar")
    }

    /// Returns the number of the shard with this key.
    pub(crate) fn number(self, key: &str) -> Option<usize> {
        let number = key.strip_prefix(INPUTS)?.strip_prefix('/')?.strip_suffix(".tar")?.parse().ok()?;
        (number < self.shards && Self::key(number) == key).then_some(number)
    }

    /// Returns the number of the first shard after `key`, in the order of keys.
    fn first_after(self, key: &str) -> usize {
        let (mut low, mut high) = (0, self.shards);
        while low < high {
            let middle = low.midpoint(high);
            if Self::key(middle).as_str() > key { high = middle } else { low = middle + 1 }
        }
        low
    }

    fn meta(self, number: usize) -> ObjectMeta {
        meta(Path::from(Self::key(number)), self.bytes, EPOCH * 1000 - 86_400_000, number as u64)
    }
}

/// The content of an object.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Its bytes.
    Stored(Bytes),
    /// Zeros: an input shard.
    Zeros,
}

#[derive(Debug)]
struct Object {
    /// Its key again: to make a path of a key costs more than everything else in a listing.
    location: Path,
    bytes: Bytes,
    /// Milliseconds since the epoch.
    modified: i64,
    tag: u64,
}

impl Object {
    fn meta(&self) -> ObjectMeta {
        meta(self.location.clone(), self.bytes.len() as u64, self.modified, self.tag)
    }
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<String, Object>,
    puts: u64,
    traffic: Traffic,
}

/// A bucket in virtual time, shared by all workers.
#[derive(Debug)]
pub(crate) struct Bucket {
    inputs: Inputs,
    began: Instant,
    state: Mutex<State>,
}

impl Bucket {
    /// Returns a bucket that holds only the inputs.
    pub(crate) fn new(inputs: Inputs, limits: RateLimits) -> Self {
        let state = State { objects: BTreeMap::new(), puts: 0, traffic: Traffic::new(limits) };
        Self { inputs, began: Instant::now(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the input shards.
    pub(crate) fn inputs(&self) -> Inputs {
        self.inputs
    }

    /// Returns the virtual time since the simulation began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Admits a request, or refuses it because there are too many.
    pub(crate) fn admit(&self, kind: RequestKind, path: &str, weight: f64) -> bool {
        self.state().traffic.admit(self.elapsed().as_secs_f64(), kind, path, weight)
    }

    /// Calls `read` with the counts of requests.
    pub(crate) fn traffic<T>(&self, read: impl FnOnce(&Traffic) -> T) -> T {
        read(&self.state().traffic)
    }

    /// Writes an object, on the condition that `mode` names.
    pub(crate) fn put(&self, path: &Path, bytes: Bytes, mode: &PutMode) -> Result<PutResult> {
        let modified = EPOCH * 1000 + self.elapsed().as_millis() as i64;
        let mut state = self.state();
        let existing = state.objects.get(path.as_ref());
        match mode {
            PutMode::Create if existing.is_some() => {
                return Err(Error::AlreadyExists { path: path.to_string(), source: "simulated".into() });
            }
            PutMode::Update(version) if existing.map(|there| tag(there.tag)) != version.e_tag => {
                return Err(Error::Precondition { path: path.to_string(), source: "simulated".into() });
            }
            _ => {}
        }
        state.puts += 1;
        let number = state.puts;
        let object = Object { location: path.clone(), bytes, modified, tag: number };
        state.objects.insert(path.to_string(), object);
        Ok(PutResult { e_tag: Some(tag(number)), version: None, extensions: Default::default() })
    }

    /// Returns an object and its metadata.
    pub(crate) fn get(&self, path: &Path) -> Result<(ObjectMeta, Content)> {
        if let Some(number) = self.inputs.number(path.as_ref()) {
            return Ok((self.inputs.meta(number), Content::Zeros));
        }
        let state = self.state();
        let missing = || Error::NotFound { path: path.to_string(), source: "simulated".into() };
        let there = state.objects.get(path.as_ref()).ok_or_else(missing)?;
        Ok((there.meta(), Content::Stored(there.bytes.clone())))
    }

    /// Deletes an object. As in S3, a missing one is no error.
    pub(crate) fn delete(&self, path: &Path) {
        self.state().objects.remove(path.as_ref());
    }

    /// Returns the keys below a folder, without a request.
    pub(crate) fn keys(&self, folder: &str) -> Vec<String> {
        let state = self.state();
        let prefix = format!("{folder}/");
        let below = state.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        below.map(|(key, _)| key.clone()).collect()
    }

    /// Returns the objects below a folder, without a request.
    pub(crate) fn contents(&self, folder: &str) -> Vec<(String, Bytes)> {
        let state = self.state();
        let prefix = format!("{folder}/");
        let below = state.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        below.map(|(key, object)| (key.clone(), object.bytes.clone())).collect()
    }

    /// Returns the page of a listing that begins after the key `after`.
    pub(crate) fn page(&self, prefix: &str, after: &str) -> Vec<ObjectMeta> {
        if prefix == INPUTS {
            let first = if after.is_empty() { 0 } else { self.inputs.first_after(after) };
            let end = (first + PAGE).min(self.inputs.shards);
            return (first..end).map(|number| self.inputs.meta(number)).collect();
        }
        let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let from = if after > folder.as_str() { Bound::Excluded(after) } else { Bound::Included(&*folder) };
        let state = self.state();
        let after = state.objects.range::<str, _>((from, Bound::Unbounded));
        let below = after.take_while(|(key, _)| key.starts_with(&folder)).take(PAGE);
        below.map(|(_, there)| there.meta()).collect()
    }

    /// Returns one level of a folder, and the number of pages that it takes.
    pub(crate) fn level(&self, prefix: &str) -> (ListResult, usize) {
        let folder = format!("{prefix}/");
        let (mut objects, mut common_prefixes) = (Vec::new(), Vec::new());
        let mut after = String::new();
        loop {
            let page = self.page(prefix, &after);
            let Some(last) = page.last() else { break };
            after = last.location.to_string();
            for meta in page {
                let below = meta.location.as_ref().strip_prefix(&folder).unwrap_or_default();
                match below.split_once('/') {
                    None => objects.push(meta),
                    Some((name, _)) => {
                        common_prefixes.push(Path::from(format!("{folder}{name}")));
                        // On with the first key after the folder: `0` follows `/`.
                        after = format!("{folder}{name}0");
                        break;
                    }
                }
            }
        }
        let pages = (objects.len() + common_prefixes.len()).div_ceil(PAGE).max(1);
        (ListResult { common_prefixes, objects, extensions: Default::default() }, pages)
    }
}

fn tag(number: u64) -> String {
    format!("\"{number:x}\"")
}

fn meta(location: Path, size: u64, modified: i64, number: u64) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: DateTime::UNIX_EPOCH + TimeDelta::milliseconds(modified),
        size,
        e_tag: Some(tag(number)),
        version: None,
    }
}
