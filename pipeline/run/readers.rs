//! The readers of a run: each takes the next shard until there is none.

use std::sync::Arc;

use recaption_input::read::{ReadRequest, ReadSettings, read_shard};
use recaption_messages::{Closed, ReadSink, ReadStop, ShardContents, ShardEvent};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{context::RunState, panic_guard::PanicGuard, read_limit::Turn, source::Next};

/// Takes the next shard, once it is this reader's turn where there is a limit; `None` once the limit is reached.
async fn next_in_turn(state: &RunState) -> Option<(Next, Option<Turn>)> {
    let turn = match &state.limit {
        Some(limit) => Some(limit.turn().await?),
        None => None,
    };
    Some((state.source.next().await, turn))
}

/// Runs one reader until no shard is left, the run stops, or the collector is gone.
pub(super) async fn read_all(
    state: Arc<RunState>,
    settings: Arc<ReadSettings>,
    sink: ReadSink,
    events: mpsc::Sender<ShardEvent>,
) {
    let _guard = PanicGuard::new(&state, "a reader");
    loop {
        // The stop is polled first: shards that are abandoned keep their places in the window until the run ends.
        let next = tokio::select! {
            biased;
            () = state.stop.wait_requested() => return,
            next = next_in_turn(&state) => next,
        };
        let Some((next, turn)) = next else { return };
        let event = match next {
            Next::Read(shard) => match read_one(&state, shard, &settings, &sink, &events).await {
                Ok(event) => event,
                Err(Closed) => return,
            },
            Next::CommittedByOther(shard) => {
                state.source.note_other_workers();
                ShardEvent::CommittedByOther { shard }
            }
            Next::Claimed(shard) => ShardEvent::ClaimedByOther { shard },
            Next::Nothing => return,
        };
        if let (Some(turn), ShardEvent::Read { contents, .. }) = (turn, &event) {
            turn.end(contents.samples);
        }
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Reads a shard once there is a place in the window; returns how that ended.
async fn read_one(
    state: &RunState,
    shard: usize,
    settings: &ReadSettings,
    sink: &ReadSink,
    events: &mpsc::Sender<ShardEvent>,
) -> Result<ShardEvent, Closed> {
    let permit = place_in_window(state).await?;
    events.send(ShardEvent::Begun { shard, permit }).await.map_err(|_| Closed)?;
    let result = tokio::select! {
        result = read(state, shard, settings, sink) => result,
        () = state.stop.wait_aborted() => return Err(Closed),
    };
    match result {
        Ok(contents) => Ok(ShardEvent::Read { shard, contents }),
        Err(ReadStop::Closed(closed)) => Err(closed),
        Err(ReadStop::Failed(error)) => {
            tracing::error!(%error, "shard cannot be read");
            Ok(ShardEvent::Failed { shard, error })
        }
    }
}

async fn place_in_window(state: &RunState) -> Result<OwnedSemaphorePermit, Closed> {
    tokio::select! {
        biased;
        () = state.stop.wait_requested() => Err(Closed),
        permit = Semaphore::acquire_owned(Arc::clone(&state.window)) => permit.map_err(|_| Closed),
    }
}

/// Reads a shard. Of one that is retried, only samples that failed go on to the decoders.
async fn read(
    state: &RunState,
    number: usize,
    settings: &ReadSettings,
    sink: &ReadSink,
) -> Result<ShardContents, ReadStop> {
    let Some(task) = state.tasks.get(number) else { return Err(Closed.into()) };
    let _working = state.progress.read.clock.work();
    let previous = match state.source.claims() {
        Some(claims) => claims.previous_rows(number).await?,
        None => None,
    };
    let (budget, counters) = (&state.budget, &state.progress.read);
    let request = ReadRequest { number, shard: &task.shard, settings, budget, counters, previous, sink };
    match &state.sampling {
        Some(sampling) => sampling.read(request).await,
        None => read_shard(request).await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::*;
    use crate::run::ShardSource;

    /// Shards that are abandoned keep their places in the window: a reader that waits for one must notice the stop.
    #[tokio::test]
    async fn reader_waiting_for_a_full_window_stops() {
        for abort in [false, true] {
            let state = Arc::new(RunState::for_tests(ShardSource::fixed([0], None), 1));
            let place = Arc::clone(&state.window).acquire_owned().await.expect("a place");
            let ((samples, _samples), (events, mut received)) = (mpsc::channel(1), mpsc::channel(1));
            let sink = ReadSink::Routed { samples, events: events.clone() };
            let settings = Arc::new(ReadSettings::default());
            let reader = tokio::spawn(read_all(Arc::clone(&state), settings, sink, events));
            tokio::task::yield_now().await;
            assert!(!reader.is_finished(), "the window is full");
            if abort {
                state.fail(anyhow!("an error that ends the run"));
            } else {
                state.stop.request_stop();
            }
            let ended = tokio::time::timeout(Duration::from_secs(30), reader).await;
            ended.expect("the reader waits forever").expect("no panic");
            assert!(received.recv().await.is_none(), "no shard was begun");
            drop(place);
        }
    }
}
