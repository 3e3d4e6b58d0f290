//! The readers of a run: each takes the next shard until there is none.

use std::sync::Arc;

use recaption_stages::{
    commits::Ledger,
    former::Former,
    read::{Found, ReadError, ReadSettings, ShardEnd, read_shard},
    schemas::{FailureClass, ShardCommit},
    shards::ShardRef,
    store::Location,
};
use tokio::sync::{Semaphore, mpsc};

use super::{collector::Event, plan::Task, shard_writer::ShardFailure, wire::Shared};

/// What the readers of a run know of the output that they read for.
pub struct Watch {
    ledger: Ledger,
    output: Location,
    tasks: Arc<Vec<Task>>,
}

impl Watch {
    /// Of the tasks of a run.
    #[must_use]
    pub fn new(ledger: Ledger, output: Location, tasks: Arc<Vec<Task>>) -> Self {
        Self { ledger, output, tasks }
    }

    /// The record whose rows stay, where this shard is done for what failed in it alone.
    fn keep(&self, shard: usize) -> Option<&ShardCommit> {
        self.tasks.get(shard)?.keep.as_deref()
    }
}

/// The record of a shard that another worker committed after this one's plan was made; never ends where there is none.
/// Asked while the shard is read already, so that nothing waits for the answer.
async fn done_elsewhere(watch: Option<&Watch>, shard: usize) -> Box<ShardCommit> {
    if let Some(watch) = watch
        && let Some(task) = watch.tasks.get(shard)
        // One that is to be done again in spite of its record is nobody else's.
        && !task.stale.contains(&task.name)
        && let Ok(Some(commit)) = watch.ledger.find(task.shard.id.as_str(), &task.name).await
    {
        return Box::new(commit);
    }
    std::future::pending().await
}

/// One reader.
pub async fn read_all(
    shared: Arc<Shared>,
    settings: Arc<ReadSettings>,
    to_decoders: mpsc::Sender<Found>,
    events: mpsc::Sender<Event>,
) {
    loop {
        // A stop comes first: shards that are given up keep their places in the window to the end of the run.
        let permit = tokio::select! {
            biased;
            () = shared.stop.wait_requested() => return,
            permit = Semaphore::acquire_owned(Arc::clone(&shared.window)) => permit,
        };
        let Ok(permit) = permit else { return };
        let Some(shard) = shared.queue.take() else { return };
        let Some(found) = shared.shards.get(shard) else { return };
        if events.send(Event::Begin { shard, permit }).await.is_err() {
            return;
        }
        let result = tokio::select! {
            result = read_one(&shared, (shard, found), &settings, &to_decoders) => result,
            commit = done_elsewhere(shared.watch.as_ref(), shard) => {
                shared.queue.mix();
                if events.send(Event::Elsewhere { shard, commit }).await.is_err() {
                    return;
                }
                continue;
            }
            () = shared.stop.wait_aborted() => return,
        };
        let event = match result {
            Ok(Some(end)) => Event::Read { shard, end },
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "shard cannot be read");
                let ReadError { class, may_pass, .. } = error;
                let failure = ShardFailure { class, error: error.to_string(), may_pass, ends_run: false };
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
    to_decoders: &mpsc::Sender<Found>,
) -> Result<Option<ShardEnd>, ReadError> {
    let bytes_read = &shared.progress.bytes_read;
    let keep = shared.watch.as_ref().and_then(|watch| Some((watch, watch.keep(shard)?)));
    let Some((watch, commit)) = keep else {
        return read_shard(shard, found, settings, &shared.budget, bytes_read, None, to_decoders).await;
    };
    let former = Former::open(&watch.output, commit).await.map_err(|e| ReadError {
        url: found.url.clone(),
        what: format!("its earlier rows: {e}"),
        class: FailureClass::Transport,
        may_pass: true,
    })?;
    read_shard(shard, found, settings, &shared.budget, bytes_read, Some(former), to_decoders).await
}
