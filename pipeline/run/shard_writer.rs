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
    commits::{Ledger, part_path},
    filter::Outcome,
    read::ShardEnd,
    schemas::{
        COMMIT_FORMAT, CaptionTable, Counts, Damage, FailureClass, PartInfo, RejectTable, ShardCommit,
        caption_schema, metadata_keys, redact_text, reject_schema,
    },
    store::Location,
    write::PartWriter,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::plan::Task;

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
}

/// How a shard ended.
pub struct ShardResult {
    /// Number within the run.
    pub shard: usize,
    /// Its commit record, or why there is none.
    pub outcome: Result<Box<ShardCommit>, ShardFailure>,
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
    failed: Vec<ShardResult>,
    /// Shards whose failure was told: one that can neither be read nor written fails once.
    told: HashSet<usize>,
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub fn new(output: Arc<Output>, tasks: Arc<Vec<Task>>) -> Self {
        Self {
            output,
            tasks,
            open: BTreeMap::new(),
            writers: tokio::task::JoinSet::new(),
            failed: Vec::new(),
            told: HashSet::new(),
        }
    }

    /// Takes one event.
    ///
    /// # Errors
    /// When rows do not fit the schema: a defect, not bad data.
    pub async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Begin { shard, permit } => self.begin(shard, permit),
            Event::Finished(finished) => {
                let Finished { shard, index, outcome, texts_cut, .. } = *finished;
                // Late outcomes of a shard that failed have nowhere to go: it will be done again as a whole.
                let Some(open) = self.open.get_mut(&shard) else { return Ok(()) };
                open.counts.texts_cut += texts_cut;
                open.waiting.insert(index, outcome);
                self.advance(shard).await?;
            }
            Event::Read { shard, end } => {
                if let Some(open) = self.open.get_mut(&shard) {
                    open.end = Some(end);
                    self.advance(shard).await?;
                }
            }
            Event::Failed { shard, failure } => {
                // Dropping the sender tells the shard's task to give up.
                self.open.remove(&shard);
                if self.told.insert(shard) {
                    self.failed.push(ShardResult { shard, outcome: Err(failure) });
                }
            }
        }
        Ok(())
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
        let mut ended = std::mem::take(&mut self.failed);
        while let Some(result) = self.writers.try_join_next() {
            ended.extend(self.joined(result));
        }
        ended
    }

    /// Waits for the uploads of complete shards; shards that are not complete are given up.
    pub async fn finish(mut self) -> Vec<ShardResult> {
        self.open.clear();
        let mut ended = std::mem::take(&mut self.failed);
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
) -> Result<Box<ShardCommit>, ShardFailure> {
    let transport = |e: &dyn std::fmt::Display| ShardFailure {
        class: FailureClass::Transport,
        error: redact_text(&format!("shard {}: {e}", task.shard.url)),
    };
    let id = &task.shard.id;
    let (captions_path, rejects_path) = (part_path("captions", id), part_path("rejects", id));
    let metadata = output.metadata();
    let part = |path: &str, schema| PartWriter::new(&output.location.child(path), Arc::new(schema));
    let mut captions =
        part(&captions_path, caption_schema(output.embed, metadata.clone())).map_err(|e| transport(&e))?;
    let mut rejects = part(&rejects_path, reject_schema(metadata)).map_err(|e| transport(&e))?;
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
            return Err(transport(&error));
        }
    };
    let Some((counts, damaged)) = end else {
        captions.abort().await;
        rejects.abort().await;
        return Err(ShardFailure { class: FailureClass::Transport, error: String::new() });
    };
    // From here on the parts are replaced: what the old records promise no longer holds.
    for name in &task.stale {
        output.ledger.revoke(id.as_str(), name).await.map_err(|e| transport(&e))?;
    }
    let info = |path: String, (rows, bytes)| PartInfo { path, rows, bytes };
    let captions = info(captions_path, captions.finish().await.map_err(|e| transport(&e))?);
    let rejects = info(rejects_path, rejects.finish().await.map_err(|e| transport(&e))?);
    if !counts.balanced() || counts.captioned != captions.rows || counts.rejected != rejects.rows {
        return Err(transport(&format!(
            "the accounts do not balance: {counts:?}, {captions:?}, {rejects:?}"
        )));
    }
    let commit = ShardCommit {
        format: COMMIT_FORMAT,
        shard: task.shard.url.clone(),
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
    output.ledger.commit(id.as_str(), &commit).await.map_err(|e| transport(&e))?;
    Ok(Box::new(commit))
}
