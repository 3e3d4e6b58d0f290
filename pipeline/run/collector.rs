//! Outcomes -> rows in order: puts a shard's outcomes back into its order and hands its rows to its task.
//!
//! [`Collector`] belongs to one task that only sorts and counts; every open shard has a task of its own that encodes and
//! uploads ([`write_shard`]). A slow upload holds back its own shard first, and through the bounded channels everything
//! else. Rows wait here only until the ones before them arrive, so what is held is bounded by what is in flight.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use recaption_messages::{PreviousOutcome, SampleOutcome, SampleResult, ShardContents};
use recaption_schemas::{CaptionTable, Counts, RejectTable, caption_schema, reject_schema};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    guard::FailureGuard,
    plan::Task,
    shard_writer::{Finish, Output, ShardFailure, ShardResult, Table, ToPart, write_shard},
};

/// Uncompressed bytes gathered before a batch goes to the encoder.
const BATCH_BYTES: usize = 4 << 20;
/// Batches of one shard waiting for its encoder.
const BATCH_QUEUE: usize = 2;

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
    Sample(Box<SampleResult>),
    /// A sample stays as an earlier run left it.
    Kept {
        /// Number within the run.
        shard: usize,
        /// Position in the shard.
        index: u64,
        /// What it was.
        was: PreviousOutcome,
    },
    /// All samples of a shard were read.
    Read {
        /// Number within the run.
        shard: usize,
        /// What it held.
        end: ShardContents,
    },
    /// Another worker committed a shard meanwhile.
    Elsewhere {
        /// Number within the run.
        shard: usize,
    },
    /// A shard cannot be read.
    Failed {
        /// Number within the run.
        shard: usize,
        /// Why.
        failure: ShardFailure,
    },
}

/// A sample's end, old or new.
enum Ended {
    New(SampleOutcome),
    Kept(PreviousOutcome),
}

struct Open {
    waiting: BTreeMap<u64, Ended>,
    /// Whether earlier rows are kept, and new ones take the place of rejects among them.
    retries: bool,
    /// Earlier rows that stay and were not told yet, of captions and of rejects.
    keep: [u64; 2],
    next: u64,
    counts: Counts,
    captions: CaptionTable,
    rejects: RejectTable,
    end: Option<ShardContents>,
    to_part: mpsc::Sender<ToPart>,
}

impl Open {
    /// Adds a new row.
    async fn push(&mut self, outcome: SampleOutcome) -> anyhow::Result<()> {
        if self.retries {
            // It takes the place of a reject.
            self.flush(Table::Rejects).await?;
            send(&self.to_part, ToPart::Drop(Table::Rejects)).await;
        }
        match outcome {
            SampleOutcome::Caption(row) => {
                self.tell_kept(Table::Captions).await;
                self.counts.captioned += 1;
                self.captions.push(&row);
                if self.captions.bytes() >= BATCH_BYTES {
                    self.flush(Table::Captions).await?;
                }
            }
            SampleOutcome::Reject(reject) => {
                self.tell_kept(Table::Rejects).await;
                self.counts.rejected += 1;
                *self.counts.reasons.entry(reject.reason.as_str().to_owned()).or_default() += 1;
                self.rejects.push(&reject);
                if self.rejects.bytes() >= BATCH_BYTES {
                    self.flush(Table::Rejects).await?;
                }
            }
        }
        Ok(())
    }

    /// Keeps the next earlier row.
    async fn keep(&mut self, was: &PreviousOutcome) -> anyhow::Result<()> {
        let table = match was {
            PreviousOutcome::Captioned => {
                self.counts.captioned += 1;
                Table::Captions
            }
            PreviousOutcome::Rejected(reason) => {
                self.counts.rejected += 1;
                *self.counts.reasons.entry(reason.clone()).or_default() += 1;
                Table::Rejects
            }
        };
        self.send_new(table).await?;
        self.keep[table as usize] += 1;
        Ok(())
    }

    /// Sends all rows so far.
    async fn flush(&mut self, table: Table) -> anyhow::Result<()> {
        self.tell_kept(table).await;
        self.send_new(table).await
    }

    async fn tell_kept(&mut self, table: Table) {
        let rows = std::mem::take(&mut self.keep[table as usize]);
        if rows > 0 {
            send(&self.to_part, ToPart::Keep(table, rows)).await;
        }
    }

    async fn send_new(&mut self, table: Table) -> anyhow::Result<()> {
        let rows = match table {
            Table::Captions if self.captions.rows() > 0 => self.captions.finish()?,
            Table::Rejects if self.rejects.rows() > 0 => self.rejects.finish()?,
            _ => return Ok(()),
        };
        send(&self.to_part, ToPart::Rows(table, rows)).await;
        Ok(())
    }
}

/// Sorts outcomes by shard and position.
pub struct Collector {
    output: Arc<Output>,
    tasks: Arc<Vec<Task>>,
    /// Of each shard the first one of the same object: parts of a list are one input.
    inputs: Vec<usize>,
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
        let mut firsts = HashMap::new();
        let inputs = tasks.iter().enumerate();
        let inputs =
            inputs.map(|(at, task)| *firsts.entry(task.shard.location.url()).or_insert(at)).collect();
        Self {
            output,
            tasks,
            inputs,
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
            Event::Sample(finished) => {
                let SampleResult { shard, index, outcome, texts_cut, .. } = *finished;
                // Late outcomes of a shard that failed have nowhere to go: it will be done again as a whole.
                let Some(open) = self.open.get_mut(&shard) else { return Ok(()) };
                open.counts.texts_cut += texts_cut;
                self.guard.count(self.inputs[shard], &outcome)?;
                open.waiting.insert(index, Ended::New(outcome));
                self.advance(shard).await?;
            }
            Event::Kept { shard, index, was } => {
                if let Some(open) = self.open.get_mut(&shard) {
                    open.waiting.insert(index, Ended::Kept(was));
                    self.advance(shard).await?;
                }
            }
            Event::Read { shard, end } => {
                if let Some(open) = self.open.get_mut(&shard) {
                    open.end = Some(end);
                    self.advance(shard).await?;
                }
            }
            Event::Elsewhere { shard } => {
                self.give_up(ShardResult { shard, outcome: Ok(Finish::Elsewhere) });
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
        let earlier = self.tasks[shard].keep.as_ref();
        let texts_cut = earlier.map_or(0, |keep| keep.commit.counts.texts_cut);
        let open = Open {
            waiting: BTreeMap::new(),
            retries: earlier.is_some(),
            keep: [0; 2],
            next: 0,
            counts: Counts { texts_cut, ..Counts::default() },
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
        while let Some(ended) = open.waiting.remove(&open.next) {
            open.next += 1;
            open.counts.read += 1;
            match ended {
                Ended::New(outcome) => open.push(outcome).await?,
                Ended::Kept(was) => open.keep(&was).await?,
            }
        }
        let complete = open.end.as_ref().is_some_and(|end| end.samples == open.next);
        if complete && let Some(mut open) = self.open.remove(&shard) {
            let end = open.end.take().unwrap_or_default();
            open.counts.input = end.input;
            open.flush(Table::Captions).await?;
            open.flush(Table::Rejects).await?;
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
