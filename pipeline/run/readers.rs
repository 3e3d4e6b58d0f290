//! The readers of a run: each takes the next shard until there is none.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use recaption_input::{
    read::{ReadError, ReadSettings, read_shard},
    shards::ShardRef,
};
use recaption_messages::{ReadItem, ShardContents};
use recaption_output::{
    commits::{ClaimAttempt, CommitLog, Records, Workers},
    read_previous_rows,
};
use recaption_schemas::FailureClass;
use recaption_store::Location;
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::{
    collector::Event,
    plan::{Keep, Task},
    shard_writer::ShardFailure,
    wire::Shared,
};

/// Pause between two looks at shards that are in other workers' hands.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A listing of the records is worth this many times its own time.
const LISTING_SHARE: u32 = 20;

/// What the readers of a run know of the output that they read for.
pub struct Watch {
    commit_log: CommitLog,
    output: Location,
    tasks: Arc<Vec<Task>>,
    workers: Option<Arc<Workers>>,
    done: Mutex<DoneElsewhere>,
}

/// Records that stood when it was looked last.
#[derive(Default)]
struct DoneElsewhere {
    records: Records,
    until: Option<Instant>,
}

/// What a reader does next.
enum Next {
    /// Reads this shard.
    Read(usize),
    /// Another worker did this one.
    Elsewhere(usize),
    /// Nothing more.
    Nothing,
}

impl Watch {
    /// Of the tasks of a run.
    #[must_use]
    pub fn new(
        commit_log: CommitLog,
        output: Location,
        tasks: Arc<Vec<Task>>,
        workers: Option<Arc<Workers>>,
    ) -> Self {
        Self { commit_log, output, tasks, workers, done: Mutex::default() }
    }

    /// The rows that stay, where this shard is done for what failed in it alone.
    fn keep(&self, shard: usize) -> Option<&Keep> {
        self.tasks.get(shard)?.keep.as_ref()
    }

    /// Whose a shard is.
    async fn take(&self, shard: usize) -> ClaimAttempt {
        let (Some(workers), Some(task)) = (&self.workers, self.tasks.get(shard)) else {
            return ClaimAttempt::Inherited;
        };
        workers.claim(task.shard.id.as_str()).await
    }

    /// The same, for a reader that has nothing else to do.
    async fn help(&self, shard: usize) -> ClaimAttempt {
        let (Some(workers), Some(task)) = (&self.workers, self.tasks.get(shard)) else {
            return ClaimAttempt::Inherited;
        };
        workers.claim_or_take_over(task.shard.id.as_str()).await
    }

    /// Gives a shard back that failed.
    pub async fn give_back(&self, shard: usize) {
        if let (Some(workers), Some(task)) = (&self.workers, self.tasks.get(shard)) {
            workers.release(task.shard.id.as_str()).await;
        }
    }

    /// Whether another worker committed a shard after this one's plan was made. What cannot be asked is done.
    async fn is_done(&self, shard: usize) -> bool {
        let Some(task) = self.tasks.get(shard) else { return false };
        match self.commit_log.digest(task.shard.id.as_str(), &task.name).await {
            // One that is to be done again in spite of its record is done once there is another one.
            Ok(Some(digest)) => task.replaces.as_ref().is_none_or(|record| record.digest != digest),
            _ => false,
        }
    }

    /// As [`Watch::is_done`], of a shard in another worker's hands: asked for all of them at once, and not too often.
    async fn was_done(&self, shard: usize) -> bool {
        let Some(task) = self.tasks.get(shard) else { return false };
        if task.replaces.is_some() {
            return self.is_done(shard).await;
        }
        let mut done = self.done.lock().await;
        if done.until.is_none_or(|until| until <= Instant::now()) {
            let began = Instant::now();
            if let Ok(records) = self.commit_log.list().await {
                done.records = records;
            }
            done.until = Some(Instant::now() + LOOK_AGAIN.max(began.elapsed() * LISTING_SHARE));
        }
        done.records.get(task.shard.id.as_str()).is_some_and(|names| names.contains(&task.name))
    }
}

/// The next shard of a reader: one that nobody has, then those that others had.
async fn next(shared: &Shared) -> Next {
    let Some(watch) = &shared.watch else {
        return shared.queue.take().map_or(Next::Nothing, Next::Read);
    };
    while let Some(shard) = shared.queue.take() {
        match watch.take(shard).await {
            ClaimAttempt::Acquired => return Next::Read(shard),
            ClaimAttempt::Inherited if watch.is_done(shard).await => return Next::Elsewhere(shard),
            ClaimAttempt::Inherited => return Next::Read(shard),
            ClaimAttempt::HeldByOther => {
                shared.queue.defer(shard);
                shared.queue.mix();
            }
        }
    }
    while let Some(shard) = shared.queue.take_deferred() {
        if watch.was_done(shard).await {
            return Next::Elsewhere(shard);
        }
        match watch.help(shard).await {
            ClaimAttempt::HeldByOther => {
                shared.queue.defer(shard);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            _ if watch.is_done(shard).await => return Next::Elsewhere(shard),
            _ => return Next::Read(shard),
        }
    }
    Next::Nothing
}

/// One reader.
pub async fn read_all(
    shared: Arc<Shared>,
    settings: Arc<ReadSettings>,
    to_decoders: mpsc::Sender<ReadItem>,
    events: mpsc::Sender<Event>,
) {
    loop {
        // A stop comes first: shards that are given up keep their places in the window to the end of the run.
        let next = tokio::select! {
            biased;
            () = shared.stop.wait_requested() => return,
            next = next(&shared) => next,
        };
        let shard = match next {
            Next::Read(shard) => shard,
            Next::Elsewhere(shard) => {
                shared.queue.mix();
                if events.send(Event::Elsewhere { shard }).await.is_err() {
                    return;
                }
                continue;
            }
            Next::Nothing => return,
        };
        let permit = tokio::select! {
            biased;
            () = shared.stop.wait_requested() => return,
            permit = Semaphore::acquire_owned(Arc::clone(&shared.window)) => permit,
        };
        let (Ok(permit), Some(found)) = (permit, shared.shards.get(shard)) else { return };
        if events.send(Event::Begin { shard, permit }).await.is_err() {
            return;
        }
        let result = tokio::select! {
            result = read_one(&shared, (shard, found), &settings, &to_decoders) => result,
            () = shared.stop.wait_aborted() => return,
        };
        let event = match result {
            Ok(Some(end)) => Event::Read { shard, end },
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "shard cannot be read");
                let failure = ShardFailure::of_input(error.class, error.to_string(), error.is_retryable);
                Event::Failed { shard, failure }
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Reads a shard; of one that is retried only what failed goes on to the decoders.
async fn read_one(
    shared: &Shared,
    (shard, found): (usize, &ShardRef),
    settings: &ReadSettings,
    to_decoders: &mpsc::Sender<ReadItem>,
) -> Result<Option<ShardContents>, ReadError> {
    let bytes_read = &shared.progress.bytes_read;
    let keep = shared.watch.as_ref().and_then(|watch| Some((watch, watch.keep(shard)?)));
    let Some((watch, keep)) = keep else {
        return read_shard(shard, found, settings, &shared.budget, bytes_read, None, to_decoders).await;
    };
    let former =
        read_previous_rows(&watch.output, &keep.commit, &keep.again).await.map_err(|e| ReadError {
            url: found.url.clone(),
            what: format!("its earlier rows: {e}"),
            class: FailureClass::Transport,
            is_retryable: true,
        })?;
    read_shard(shard, found, settings, &shared.budget, bytes_read, Some(former), to_decoders).await
}
