//! What the output has of a shard: scanned once at the start, as a run does, and looked up again for each shard, since other workers
//! commit meanwhile.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use recaption_input::shards::ShardRef;
use recaption_output::commits::{CommitLog, ExistingRecord, OutputScan, RecordName, ShardState, Workers};
use recaption_schemas::{Counts, ShardId};

use crate::run::{Task, clear_leftovers};

/// How long the scan may take at the start, and how far this machine's clock may be from the store's.
const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::hours(1);
/// Records of one shard that are listed; more than two are there only after several crashes.
const MAX_VERSIONS: usize = 16;

/// The records and parts of an output, as far as no request has asked for their shard.
#[derive(Debug)]
pub(in crate::worker) struct Records {
    commit_log: CommitLog,
    /// Fingerprint of the configuration.
    configuration: String,
    workers: Option<Arc<Workers>>,
    known: Mutex<Known>,
    /// Held while the output is scanned again.
    scanning: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    scan: OutputScan,
    /// When the scan began, or a moment later.
    scanned: DateTime<Utc>,
    /// Shards with a deletion that is not finished.
    deleted: HashSet<String>,
    /// Digests of the shards that were asked for: the scan knows nothing of them any more. 64 bits each; a collision costs a scan.
    asked: HashSet<u64>,
    /// Of those that were asked for and are not done, what the scan knew.
    returned: HashMap<String, (RecordName, ShardState)>,
}

/// What is to be done with a shard that can be read.
pub(super) enum Compared {
    /// It is to be processed.
    ToDo(Box<Task>),
    /// An equal record is there, with these counts.
    Done(Box<Counts>),
}

impl Records {
    /// Takes the records of an output, as they were scanned, and the shards whose deletion an earlier run has not finished.
    pub(in crate::worker) fn new(
        commit_log: CommitLog,
        (scan, deleted): (OutputScan, Vec<String>),
        configuration: String,
        workers: Option<Arc<Workers>>,
    ) -> Self {
        let known =
            Known { scan, scanned: Utc::now(), deleted: deleted.into_iter().collect(), ..Known::default() };
        let (known, scanning) = (Mutex::new(known), tokio::sync::Mutex::default());
        Self { commit_log, configuration, workers, known, scanning }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_of(&self, shard: &ShardRef) -> RecordName {
        RecordName { input: shard.fingerprint(), configuration: self.configuration.clone() }
    }

    /// Returns whether a shard was done when the output was scanned.
    pub(super) fn is_done(&self, shard: &ShardRef) -> bool {
        let name = self.name_of(shard);
        self.known().scan.done(&shard.url, &name).is_some()
    }

    /// Compares a shard with what the output has of it. What unfinished attempts left of one that is done is removed.
    ///
    /// # Errors
    /// When the output cannot be read, or what is left over cannot be removed.
    pub(super) async fn compare(&self, shard: ShardRef) -> anyhow::Result<Compared> {
        let name = self.name_of(&shard);
        let mut found = self.take(&shard, &name);
        if let Some(state) = &mut found
            && let Some(done) = state.done.take()
        {
            clear_leftovers(&self.commit_log, std::slice::from_ref(state), self.workers.as_deref()).await?;
            return Ok(done_by(&done));
        }
        // A record that was invalid when the output was scanned is replaced, unless it was since.
        let invalid = found.as_ref().and_then(|state| Some(state.replaces.as_ref()?.digest));
        let may_be_done = match invalid {
            None => true,
            Some(invalid) => {
                let now = self.commit_log.digest(shard.id.as_str(), &name).await?;
                now.is_some_and(|now| now != invalid)
            }
        };
        if may_be_done && let Some(commit) = self.commit_log.find(shard.id.as_str(), &name).await? {
            return Ok(Compared::Done(Box::new(commit.counts)));
        }
        let found = match found {
            Some(state) if !self.has_unknown_record(&shard, &state).await? => state,
            _ => self.scan_again(&shard, &name).await?,
        };
        if let Some(done) = &found.done {
            return Ok(done_by(done));
        }
        let is_deleted = self.known().deleted.remove(shard.id.as_str());
        if is_deleted {
            self.commit_log.cancel_deletion(shard.id.as_str()).await?;
        }
        Ok(Compared::ToDo(Box::new(Task::new(shard, name, found))))
    }

    /// Returns whether another worker committed an earlier version of the shard after the output was scanned: its rows have to go.
    /// That can be where the shard's object is newer than the scan, or its time is not known.
    async fn has_unknown_record(&self, shard: &ShardRef, state: &ShardState) -> anyhow::Result<bool> {
        let scanned = self.known().scanned - CLOCK_DIFFERENCE;
        if shard.modified().is_some_and(|modified| modified < scanned) {
            return Ok(false);
        }
        let id = shard.id.as_str();
        let records = self.commit_log.list_between((id, id), MAX_VERSIONS).await?.found;
        let is_known = |name: &RecordName| {
            state.replaces.iter().chain(&state.stale_records).any(|record| record.name == *name)
        };
        Ok(records.get(id).is_some_and(|names| !names.iter().all(is_known)))
    }

    /// Takes what is known of a shard without a look at the output; `None` if it was asked for before and may have changed since.
    fn take(&self, shard: &ShardRef, name: &RecordName) -> Option<ShardState> {
        let mut known = self.known();
        let is_new = known.asked.insert(digest(&shard.id));
        match known.returned.remove(shard.id.as_str()) {
            Some((returned, state)) if returned == *name => Some(state),
            Some(_) => None,
            None => is_new.then(|| known.scan.take(&shard.url, name)),
        }
    }

    /// Takes back what is known of a shard that was not done after all.
    pub(super) fn put_back(&self, task: &Task) {
        let state = ShardState {
            done: None,
            replaces: task.replaces.clone(),
            stale_records: task.stale_records.to_vec(),
            orphaned_parts: task.orphaned_parts.to_vec(),
        };
        let id = task.shard.id.as_str().to_owned();
        self.known().returned.insert(id, (task.name.clone(), state));
    }

    /// Scans the output again, for a shard that was asked for before and is not done: it has changed since, and its earlier rows
    /// go.
    async fn scan_again(&self, shard: &ShardRef, name: &RecordName) -> anyhow::Result<ShardState> {
        let _alone = self.scanning.lock().await;
        tracing::debug!(shard = shard.url, "the shard was asked for before; scanning the output again");
        let began = Utc::now();
        let mut scan = self.commit_log.scan().await?;
        let found = scan.take(&shard.url, name);
        let mut known = self.known();
        (known.scan, known.scanned) = (scan, began);
        Ok(found)
    }
}

fn done_by(record: &ExistingRecord) -> Compared {
    let counts = record.summary.as_ref().map(|summary| summary.counts.clone()).unwrap_or_default();
    Compared::Done(Box::new(counts))
}

fn digest(id: &ShardId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.as_str().hash(&mut hasher);
    hasher.finish()
}
