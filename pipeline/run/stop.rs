//! Stopping: the first Ctrl-C (or SIGTERM) finishes the shards in flight, the second abandons them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// How far a run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Level {
    /// It continues.
    Run = 0,
    /// It begins no further shard.
    Drain = 1,
    /// It abandons the shards in flight.
    Abort = 2,
}

/// A request to stop, shared by all stages.
#[derive(Debug, Default)]
pub struct Stop {
    level: AtomicU8,
    changed: Notify,
}

impl Stop {
    /// Requests a stop: the first call finishes the shards in flight, the second abandons them.
    pub fn request_stop(&self) {
        // One step, so that an abort at the same time is not undone.
        let more = |level| Some(if level == Level::Run as u8 { Level::Drain } else { Level::Abort } as u8);
        let _ = self.level.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        self.changed.notify_waiters();
    }

    /// Abandons the shards in flight, after an error that ends the run.
    pub fn abort(&self) {
        self.level.store(Level::Abort as u8, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Returns whether no further shard should be begun.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.level.load(Ordering::SeqCst) >= Level::Drain as u8
    }

    /// Returns whether the shards in flight are abandoned.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.level.load(Ordering::SeqCst) >= Level::Abort as u8
    }

    /// Waits until [`Stop::is_aborted`].
    pub async fn wait_aborted(&self) {
        self.wait(Level::Abort).await;
    }

    /// Waits until [`Stop::requested`].
    pub async fn wait_requested(&self) {
        self.wait(Level::Drain).await;
    }

    /// Runs `work` to its end; `None` when a stop is requested before.
    pub async fn unless_requested<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.wait_requested() => None,
            done = work => Some(done),
        }
    }

    async fn wait(&self, level: Level) {
        loop {
            let changed = self.changed.notified();
            if self.level.load(Ordering::SeqCst) >= level as u8 {
                return;
            }
            changed.await;
        }
    }
}

/// Connects Ctrl-C and SIGTERM with `stop`. Shards in flight have `grace` to end, whoever requests the stop; `None` waits for
/// them. Must be called within a tokio runtime.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn install_signal_handlers(stop: &Arc<Stop>, grace: Option<Duration>) -> std::io::Result<()> {
    if let Some(grace) = grace {
        let stop = Arc::clone(stop);
        tokio::spawn(async move {
            if abandon_after(grace, &stop).await {
                exit_after(GRACE_ABORT_TIMEOUT);
            }
        });
    }
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.request_stop();
            if stop.is_aborted() {
                tracing::warn!("stopping now; unfinished shards are left to the next run");
                exit_after(ABORT_TIMEOUT);
            } else {
                tracing::warn!("finishing the shards in flight; interrupt again to stop at once");
            }
        }
    });
    Ok(())
}

/// Time that a run has to end by itself after the second signal.
const ABORT_TIMEOUT: Duration = Duration::from_millis(900);
/// The same once the grace is over, when nobody waits at a keyboard: for a model call that is under way, for uploads that are
/// aborted, and for the run's record.
const GRACE_ABORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Exit code of a run that was stopped.
const STOPPED: i32 = 1;

/// Abandons the shards that are in flight `grace` after a request to stop, and returns whether they had not been before.
async fn abandon_after(grace: Duration, stop: &Stop) -> bool {
    stop.wait_requested().await;
    tokio::time::sleep(grace).await;
    let is_over = !stop.is_aborted();
    if is_over {
        let grace_seconds = grace.as_secs();
        tracing::warn!(grace_seconds, "the grace is over; unfinished shards are left to the next run");
        stop.abort();
    }
    is_over
}

/// Ends the process after `timeout`, whatever hangs. Nothing visible is half-written at any moment.
fn exit_after(timeout: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(timeout);
        std::process::exit(STOPPED);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shards_are_abandoned_once_the_grace_is_over() {
        let (stop, grace) = (Arc::new(Stop::default()), Duration::from_millis(200));
        let watch = Arc::clone(&stop);
        let grace_over = tokio::spawn(async move { abandon_after(grace, &watch).await });
        tokio::time::sleep(2 * grace).await;
        assert!(!stop.requested(), "nobody asked for a stop");
        stop.request_stop();
        let began = std::time::Instant::now();
        stop.wait_aborted().await;
        assert!(began.elapsed() >= grace && grace_over.await.expect("no panic"));
        assert!(!abandon_after(Duration::ZERO, &stop).await, "they are abandoned already");
    }

    #[tokio::test]
    async fn second_request_aborts() {
        let stop = Arc::new(Stop::default());
        stop.request_stop();
        assert!(stop.requested() && !stop.is_aborted());
        let waiting = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move { stop.wait_aborted().await }
        });
        tokio::task::yield_now().await;
        stop.request_stop();
        waiting.await.expect("woken");
        assert!(stop.is_aborted());
    }
}
