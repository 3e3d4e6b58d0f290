//! Sample results -> rows in order: restores a shard's order and sends its rows to its writer.
//!
//! [`Collector`] belongs to one task that only sorts and counts; every open shard has a task of its own that encodes and
//! uploads ([`write_shard`]). A slow upload holds back its own shard first, and through the bounded channels everything
//! else. Rows wait here only until the ones before them arrive, so what is held is bounded by what is in flight.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures::FutureExt;
use recaption_messages::{PreviousOutcome, SampleOutcome, SampleResult, ShardContents, ShardEvent};
use recaption_schemas::{CaptionTable, Counts, RejectTable, caption_schema, reject_schema};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    guard::FailureGuard,
    output::Output,
    parts::{Table, ToPart},
    shard_writer::{ShardFailure, ShardOutcome, ShardResult, write_shard},
    source::Tasks,
};

/// Uncompressed bytes gathered before a batch goes to the encoder.
const BATCH_BYTES: usize = 4 << 20;
/// Batches of one shard waiting for its encoder.
const BATCH_QUEUE: usize = 2;

/// A shard whose rows are being gathered.
struct OpenShard {
    /// The shard, or the first part that was begun of the same list.
    input: usize,
    waiting: BTreeMap<u64, SampleOutcome>,
    /// Whether earlier rows are kept, and new ones take the place of rejects among them.
    retries: bool,
    /// Earlier rows that stay and were not sent to the writer yet, of captions and of rejects.
    kept: [u64; 2],
    next: u64,
    counts: Counts,
    captions: CaptionTable,
    rejects: RejectTable,
    contents: Option<ShardContents>,
    to_part: mpsc::Sender<ToPart>,
}

impl OpenShard {
    /// Adds the next sample's row, or keeps its earlier one.
    async fn push(&mut self, outcome: SampleOutcome) -> anyhow::Result<()> {
        if let SampleOutcome::Kept(previous) = &outcome {
            return self.keep(previous).await;
        }
        if self.retries {
            // It takes the place of a reject.
            self.flush(Table::Rejects).await?;
            send(&self.to_part, ToPart::Drop(Table::Rejects)).await;
        }
        match outcome {
            SampleOutcome::Caption(row) => {
                self.flush_kept(Table::Captions).await;
                self.counts.captioned += 1;
                self.captions.push(&row);
                if self.captions.bytes() >= BATCH_BYTES {
                    self.flush(Table::Captions).await?;
                }
            }
            SampleOutcome::Reject(reject) => {
                self.flush_kept(Table::Rejects).await;
                self.counts.rejected += 1;
                *self.counts.reasons.entry(reject.reason.as_str().to_owned()).or_default() += 1;
                self.rejects.push(&reject);
                if self.rejects.bytes() >= BATCH_BYTES {
                    self.flush(Table::Rejects).await?;
                }
            }
            SampleOutcome::Kept(_) => {}
        }
        Ok(())
    }

    /// Keeps the next earlier row.
    async fn keep(&mut self, previous: &PreviousOutcome) -> anyhow::Result<()> {
        let table = match previous {
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
        self.kept[table as usize] += 1;
        Ok(())
    }

    /// Sends all rows so far.
    async fn flush(&mut self, table: Table) -> anyhow::Result<()> {
        self.flush_kept(table).await;
        self.send_new(table).await
    }

    async fn flush_kept(&mut self, table: Table) {
        let rows = std::mem::take(&mut self.kept[table as usize]);
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

/// Sorts sample results by shard and position.
pub(crate) struct Collector {
    output: Arc<Output>,
    tasks: Arc<Tasks>,
    /// The first shard that was begun of each list: its parts are one input.
    lists: HashMap<String, usize>,
    open: BTreeMap<usize, OpenShard>,
    writers: tokio::task::JoinSet<ShardResult>,
    /// Shards that ended without being written.
    early: Vec<ShardResult>,
    /// Shards whose end was reported: one that can be neither read nor written fails once.
    reported: HashSet<usize>,
    guard: FailureGuard,
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub(crate) fn new(output: Arc<Output>, tasks: Arc<Tasks>, guard: FailureGuard) -> Self {
        Self {
            output,
            tasks,
            lists: HashMap::new(),
            open: BTreeMap::new(),
            writers: tokio::task::JoinSet::new(),
            early: Vec::new(),
            guard,
            reported: HashSet::new(),
        }
    }

    /// Takes one event.
    ///
    /// # Errors
    /// When rows do not fit the schema, which is a defect and not bad data, or when so many samples failed that something
    /// is wrong with the run.
    pub(crate) async fn take(&mut self, event: ShardEvent) -> anyhow::Result<()> {
        match event {
            ShardEvent::Begun { shard, permit } => self.begin(shard, permit),
            ShardEvent::Sample(result) => {
                let SampleResult { shard, index, outcome, texts_cut, .. } = *result;
                // Late results of a shard that failed are dropped: the shard will be processed again as a whole.
                let Some(open) = self.open.get_mut(&shard) else { return Ok(()) };
                open.counts.texts_cut += texts_cut;
                self.guard.count(open.input, &outcome)?;
                open.waiting.insert(index, outcome);
                self.advance(shard).await?;
            }
            ShardEvent::Read { shard, contents } => {
                if let Some(open) = self.open.get_mut(&shard) {
                    open.contents = Some(contents);
                    self.advance(shard).await?;
                }
            }
            ShardEvent::CommittedByOther { shard } => {
                self.abandon_shard(ShardResult { shard, outcome: Ok(ShardOutcome::CommittedByOther) });
            }
            ShardEvent::ClaimedByOther { shard } => {
                self.abandon_shard(ShardResult { shard, outcome: Ok(ShardOutcome::ClaimedByOther) });
            }
            ShardEvent::Failed { shard, error } => {
                self.abandon_shard(ShardResult { shard, outcome: Err(ShardFailure::of_input(&error)) });
            }
        }
        Ok(())
    }

    /// Ends a shard before its rows are whole.
    fn abandon_shard(&mut self, result: ShardResult) {
        // Dropping the sender ends the shard's writer.
        self.open.remove(&result.shard);
        if self.reported.insert(result.shard) {
            self.early.push(result);
        }
    }

    fn begin(&mut self, shard: usize, permit: OwnedSemaphorePermit) {
        let (to_part, from_collector) = mpsc::channel(BATCH_QUEUE);
        let Some(task) = self.tasks.get(shard) else { return };
        let url = task.shard.url.clone();
        let metadata = self.output.metadata();
        let earlier = task.keep.as_ref();
        let texts_cut = earlier.map_or(0, |keep| keep.commit.counts.texts_cut);
        let input = match task.shard.list_part() {
            Some(_) => *self.lists.entry(task.shard.location.url()).or_insert(shard),
            None => shard,
        };
        let open = OpenShard {
            input,
            waiting: BTreeMap::new(),
            retries: earlier.is_some(),
            kept: [0; 2],
            next: 0,
            counts: Counts { texts_cut, ..Counts::default() },
            captions: CaptionTable::new(
                Arc::new(caption_schema(self.output.row_columns(), metadata.clone())),
                url.clone(),
            ),
            rejects: RejectTable::new(Arc::new(reject_schema(metadata)), url),
            contents: None,
            to_part,
        };
        self.open.insert(shard, open);
        let output = Arc::clone(&self.output);
        self.writers.spawn(async move {
            let writing = AssertUnwindSafe(write_shard(&output, &task, from_collector)).catch_unwind();
            let outcome = writing.await.unwrap_or_else(|_| Err(ShardFailure::panicked(&task.shard.url)));
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
            open.push(outcome).await?;
        }
        let complete = open.contents.as_ref().is_some_and(|contents| contents.samples == open.next);
        if complete && let Some(mut open) = self.open.remove(&shard) {
            let contents = open.contents.take().unwrap_or_default();
            open.counts.input = contents.input;
            open.flush(Table::Captions).await?;
            open.flush(Table::Rejects).await?;
            send(&open.to_part, ToPart::End(open.counts, contents.damage)).await;
        }
        Ok(())
    }

    /// Shards that ended since the last call.
    pub(crate) fn ended(&mut self) -> Vec<ShardResult> {
        let mut ended = std::mem::take(&mut self.early);
        while let Some(result) = self.writers.try_join_next() {
            ended.extend(self.joined(result));
        }
        ended
    }

    /// Waits until a shard's writer has ended; forever while there is none. Then [`Collector::ended`] returns the shard.
    pub(crate) async fn writer_ended(&mut self) {
        match self.writers.join_next().await {
            Some(result) => {
                let result = self.joined(result);
                self.early.extend(result);
            }
            None => std::future::pending().await,
        }
    }

    /// Waits for the uploads of complete shards; shards that are not complete are abandoned.
    pub(crate) async fn finish(mut self) -> Vec<ShardResult> {
        self.open.clear();
        let mut ended = std::mem::take(&mut self.early);
        while let Some(result) = self.writers.join_next().await {
            ended.extend(self.joined(result));
        }
        ended
    }

    fn joined(&mut self, result: Result<ShardResult, tokio::task::JoinError>) -> Option<ShardResult> {
        match result {
            // Abandoned: either it failed and was reported already, or it is left to the next run.
            Ok(ShardResult { outcome: Err(failure), .. }) if failure.error.is_empty() => None,
            Ok(result) if result.outcome.is_ok() => Some(result),
            Ok(result) => self.reported.insert(result.shard).then_some(result),
            Err(error) => {
                tracing::error!(%error, "a shard's writer was cancelled");
                None
            }
        }
    }
}

async fn send(to_part: &mpsc::Sender<ToPart>, message: ToPart) {
    // The task ends early only after an error, which it returns.
    let _ = to_part.send(message).await;
}
