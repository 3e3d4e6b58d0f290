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

/// Connects Ctrl-C and SIGTERM with `stop`. Must be called within a tokio runtime.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn install_signal_handlers(stop: &Arc<Stop>) -> std::io::Result<()> {
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
                exit_soon();
            } else {
                tracing::warn!("finishing the shards in flight; interrupt again to stop at once");
            }
        }
    });
    Ok(())
}

/// Time that an aborted run has to end by itself.
const ABORT_TIMEOUT: Duration = Duration::from_millis(900);
/// Exit code of a run that was stopped.
const STOPPED: i32 = 1;

/// Ends the process within a second, whatever hangs. Nothing visible is half-written at any moment.
fn exit_soon() {
    std::thread::spawn(|| {
        std::thread::sleep(ABORT_TIMEOUT);
        std::process::exit(STOPPED);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

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
