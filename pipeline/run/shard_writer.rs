//! Outcomes -> parts -> commit: puts a shard's rows back into their order and writes them.
//!
//! [`Collector`] belongs to one task that only sorts and counts; every open shard has a task of its own that encodes and
//! uploads ([`write_shard`]). A slow upload holds back its own shard first, and through the bounded channels everything
//! else. Rows wait here only until the ones before them arrive, so what is held is bounded by what is in flight.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow_array::RecordBatch;
use recaption_stages::{
    caption::Finished,
    commits::{Committed, Ledger, part_path},
    filter::Outcome,
    read::ShardEnd,
    schemas::{
        COMMIT_FORMAT, CaptionTable, Counts, Damage, FailureClass, RejectTable, ShardCommit, caption_schema,
        metadata_keys, redact_text, reject_schema,
    },
    store::{Fault, Location, StoreError},
    write::{PartWriter, WriteError},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{guard::FailureGuard, plan::Task};

/// Uncompressed bytes gathered before a batch goes to the encoder.
const BATCH_BYTES: usize = 4 << 20;
/// Batches of one shard waiting for its encoder.
const BATCH_QUEUE: usize = 2;

/// Why a shard failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFailure {
    /// Data or transport.
    pub class: FailureClass,
    /// What happened.
    pub error: String,
    /// Whether another attempt in this run may go better.
    pub may_pass: bool,
    /// Whether every other shard would fail the same way: an output that is full, or refuses.
    pub ends_run: bool,
}

impl ShardFailure {
    /// An output that does not take what is written.
    fn of_output(shard: &str, fault: Fault, error: &dyn std::fmt::Display) -> Self {
        Self {
            class: FailureClass::Transport,
            error: redact_text(&format!("shard {shard}: {error}")),
            may_pass: fault.may_pass(),
            ends_run: matches!(fault, Fault::Full | Fault::Permanent),
        }
    }

    /// A shard that was given up without a reason of its own.
    fn given_up() -> Self {
        Self { class: FailureClass::Transport, error: String::new(), may_pass: false, ends_run: false }
    }
}

/// A shard that is committed.
pub struct Finish {
    /// Its record.
    pub commit: Box<ShardCommit>,
    /// Whether its record was new.
    pub committed: Committed,
    /// Whether its rows are another worker's, so that this one counts none.
    pub elsewhere: bool,
}

/// How a shard ended.
pub struct ShardResult {
    /// Number within the run.
    pub shard: usize,
    /// Its commit record, or why there is none.
    pub outcome: Result<Finish, ShardFailure>,
}

/// What reaches the collector.
pub enum Event {
    /// A shard is begun; `permit` keeps its place in the window until it ends.
    Begin {
        /// Number within the run.
        shard: usize,
        /// Place in the window.
        permit: OwnedSemaphorePermit,
    },
    /// A sample ended.
    Finished(Box<Finished>),
    /// All samples of a shard were read.
    Read {
        /// Number within the run.
        shard: usize,
        /// What it held.
        end: ShardEnd,
    },
    /// Another worker committed a shard meanwhile.
    Elsewhere {
        /// Number within the run.
        shard: usize,
        /// Its record.
        commit: Box<ShardCommit>,
    },
    /// A shard cannot be read.
    Failed {
        /// Number within the run.
        shard: usize,
        /// Why.
        failure: ShardFailure,
    },
}

/// To a shard's own task.
enum ToPart {
    Captions(RecordBatch),
    Rejects(RecordBatch),
    End(Counts, Option<Damage>),
}

/// What all shards of a run have in common.
pub struct Output {
    /// The output.
    pub location: Location,
    /// Its records.
    pub ledger: Ledger,
    /// Keys that change rows.
    pub configuration: BTreeMap<String, String>,
    /// Captioner's digest.
    pub model: String,
    /// Scorer's digest, where it is not the captioner.
    pub scorer: Option<String>,
    /// Decode parameters and seed, JSON.
    pub decode: String,
    /// Whether rows carry the stored image.
    pub embed: bool,
}

impl Output {
    fn metadata(&self) -> std::collections::HashMap<String, String> {
        let always: [(&str, &str); 3] = [
            (metadata_keys::SCHEMA_VERSION, recaption_stages::schemas::CAPTION_SCHEMA_VERSION),
            (metadata_keys::MODEL, &self.model),
            (metadata_keys::DECODE, &self.decode),
        ];
        let scorer = self.scorer.as_deref().map(|digest| (metadata_keys::SCORER, digest));
        always.into_iter().chain(scorer).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }
}

struct Open {
    waiting: BTreeMap<u64, Outcome>,
    next: u64,
    counts: Counts,
    captions: CaptionTable,
    rejects: RejectTable,
    end: Option<ShardEnd>,
    to_part: mpsc::Sender<ToPart>,
}

/// Sorts outcomes by shard and position.
pub struct Collector {
    output: Arc<Output>,
    tasks: Arc<Vec<Task>>,
    open: BTreeMap<usize, Open>,
    writers: tokio::task::JoinSet<ShardResult>,
    /// Shards that ended without being written.
    early: Vec<ShardResult>,
    /// Shards whose end was told: one that can neither be read nor written fails once.
    told: HashSet<usize>,
    guard: FailureGuard,
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub fn new(output: Arc<Output>, tasks: Arc<Vec<Task>>, guard: FailureGuard) -> Self {
        Self {
            output,
            tasks,
            open: BTreeMap::new(),
            writers: tokio::task::JoinSet::new(),
            early: Vec::new(),
            guard,
            told: HashSet::new(),
        }
    }

    /// Takes one event.
    ///
    /// # Errors
    /// When rows do not fit the schema, which is a defect and not bad data, or when so many samples failed that something
    /// is wrong with the run.
    pub async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Begin { shard, permit } => self.begin(shard, permit),
            Event::Finished(finished) => {
                let Finished { shard, index, outcome, texts_cut, .. } = *finished;
                // Late outcomes of a shard that failed have nowhere to go: it will be done again as a whole.
                let Some(open) = self.open.get_mut(&shard) else { return Ok(()) };
                open.counts.texts_cut += texts_cut;
                self.guard.count(shard, &outcome)?;
                open.waiting.insert(index, outcome);
                self.advance(shard).await?;
            }
            Event::Read { shard, end } => {
                if let Some(open) = self.open.get_mut(&shard) {
                    open.end = Some(end);
                    self.advance(shard).await?;
                }
            }
            Event::Elsewhere { shard, commit } => {
                let outcome = Ok(Finish { commit, committed: Committed::Before, elsewhere: true });
                self.give_up(ShardResult { shard, outcome });
            }
            Event::Failed { shard, failure } => self.give_up(ShardResult { shard, outcome: Err(failure) }),
        }
        Ok(())
    }

    /// Ends a shard before its rows are whole.
    fn give_up(&mut self, result: ShardResult) {
        // Dropping the sender tells the shard's task to end.
        self.open.remove(&result.shard);
        if self.told.insert(result.shard) {
            self.early.push(result);
        }
    }

    fn begin(&mut self, shard: usize, permit: OwnedSemaphorePermit) {
        let (to_part, from_collector) = mpsc::channel(BATCH_QUEUE);
        let url = self.tasks[shard].shard.url.clone();
        let metadata = self.output.metadata();
        let open = Open {
            waiting: BTreeMap::new(),
            next: 0,
            counts: Counts::default(),
            captions: CaptionTable::new(
                Arc::new(caption_schema(self.output.embed, metadata.clone())),
                url.clone(),
            ),
            rejects: RejectTable::new(Arc::new(reject_schema(metadata)), url),
            end: None,
            to_part,
        };
        self.open.insert(shard, open);
        let (output, tasks) = (Arc::clone(&self.output), Arc::clone(&self.tasks));
        self.writers.spawn(async move {
            let outcome = write_shard(&output, &tasks[shard], from_collector).await;
            drop(permit);
            ShardResult { shard, outcome }
        });
    }

    /// Moves rows that are next in order into the tables, and on when enough are gathered.
    async fn advance(&mut self, shard: usize) -> anyhow::Result<()> {
        let Some(open) = self.open.get_mut(&shard) else { return Ok(()) };
        while let Some(outcome) = open.waiting.remove(&open.next) {
            open.next += 1;
            open.counts.read += 1;
            match outcome {
                Outcome::Caption(row) => {
                    open.counts.captioned += 1;
                    open.captions.push(&row);
                }
                Outcome::Reject(reject) => {
                    open.counts.rejected += 1;
                    *open.counts.reasons.entry(reject.reason.as_str().to_owned()).or_default() += 1;
                    open.rejects.push(&reject);
                }
            }
            if open.captions.bytes() >= BATCH_BYTES {
                send(&open.to_part, ToPart::Captions(open.captions.finish()?)).await;
            }
            if open.rejects.bytes() >= BATCH_BYTES {
                send(&open.to_part, ToPart::Rejects(open.rejects.finish()?)).await;
            }
        }
        let complete = open.end.as_ref().is_some_and(|end| end.samples == open.next);
        if complete && let Some(mut open) = self.open.remove(&shard) {
            let end = open.end.take().unwrap_or(ShardEnd { samples: 0, ignored_members: 0, damage: None });
            open.counts.ignored_members = end.ignored_members;
            if open.captions.rows() > 0 {
                send(&open.to_part, ToPart::Captions(open.captions.finish()?)).await;
            }
            if open.rejects.rows() > 0 {
                send(&open.to_part, ToPart::Rejects(open.rejects.finish()?)).await;
            }
            send(&open.to_part, ToPart::End(open.counts, end.damage)).await;
        }
        Ok(())
    }

    /// Shards that ended since the last call.
    pub fn ended(&mut self) -> Vec<ShardResult> {
        let mut ended = std::mem::take(&mut self.early);
        while let Some(result) = self.writers.try_join_next() {
            ended.extend(self.joined(result));
        }
        ended
    }

    /// Waits for the uploads of complete shards; shards that are not complete are given up.
    pub async fn finish(mut self) -> Vec<ShardResult> {
        self.open.clear();
        let mut ended = std::mem::take(&mut self.early);
        while let Some(result) = self.writers.join_next().await {
            ended.extend(self.joined(result));
        }
        ended
    }

    fn joined(&mut self, result: Result<ShardResult, tokio::task::JoinError>) -> Option<ShardResult> {
        match result {
            // Given up: either it failed and was told already, or it is left to the next run.
            Ok(ShardResult { outcome: Err(failure), .. }) if failure.error.is_empty() => None,
            Ok(result) if result.outcome.is_ok() => Some(result),
            Ok(result) => self.told.insert(result.shard).then_some(result),
            Err(error) => {
                tracing::error!(%error, "a shard's writer broke down");
                None
            }
        }
    }
}

async fn send(to_part: &mpsc::Sender<ToPart>, message: ToPart) {
    // The task ends early only after an error, which it returns.
    let _ = to_part.send(message).await;
}

/// Writes one shard: clears what no longer holds, uploads both parts, then commits.
async fn write_shard(
    output: &Output,
    task: &Task,
    mut batches: mpsc::Receiver<ToPart>,
) -> Result<Finish, ShardFailure> {
    let url = &task.shard.url;
    let unwritten = |e: WriteError| ShardFailure::of_output(url, e.fault(), &e);
    let refused = |e: StoreError| {
        // A record that cannot be read, or parts that another worker replaced, are this shard's trouble alone.
        let fault = if matches!(e, StoreError::Record { .. }) { Fault::Exhausted } else { e.fault() };
        ShardFailure::of_output(url, fault, &e)
    };
    let id = &task.shard.id;
    let (captions_path, rejects_path) = (part_path("captions", id), part_path("rejects", id));
    let metadata = output.metadata();
    let part = |path: &str, schema| PartWriter::new(&output.location.child(path), Arc::new(schema));
    let mut captions =
        part(&captions_path, caption_schema(output.embed, metadata.clone())).map_err(unwritten)?;
    let mut rejects = part(&rejects_path, reject_schema(metadata)).map_err(unwritten)?;
    let end = loop {
        let written = match batches.recv().await {
            Some(ToPart::Captions(batch)) => captions.write(batch).await,
            Some(ToPart::Rejects(batch)) => rejects.write(batch).await,
            Some(ToPart::End(counts, damage)) => break Some((counts, damage)),
            None => break None,
        };
        if let Err(error) = written {
            captions.abort().await;
            rejects.abort().await;
            return Err(unwritten(error));
        }
    };
    let Some((counts, damaged)) = end else {
        captions.abort().await;
        rejects.abort().await;
        return Err(ShardFailure::given_up());
    };
    // From here on the parts are replaced: what the old records promise no longer holds.
    for name in &task.stale {
        output.ledger.revoke(id.as_str(), name).await.map_err(refused)?;
    }
    let captions = captions.finish().await.map_err(unwritten)?.info(&captions_path);
    let rejects = rejects.finish().await.map_err(unwritten)?.info(&rejects_path);
    if !counts.balanced() || counts.captioned != captions.rows || counts.rejected != rejects.rows {
        return Err(ShardFailure {
            class: FailureClass::Transport,
            error: format!("shard {url}: the accounts do not balance: {counts:?}, {captions:?}, {rejects:?}"),
            may_pass: false,
            ends_run: false,
        });
    }
    let commit = ShardCommit {
        format: COMMIT_FORMAT,
        shard: url.clone(),
        size: task.shard.size,
        etag: task.shard.etag.clone(),
        fingerprint: task.name.fingerprint(),
        configuration: output.configuration.clone(),
        model: output.model.clone(),
        counts,
        damaged,
        captions,
        rejects,
    };
    let committed = output.ledger.commit(id.as_str(), &commit).await.map_err(refused)?;
    Ok(Finish { commit: Box::new(commit), committed, elsewhere: false })
}
