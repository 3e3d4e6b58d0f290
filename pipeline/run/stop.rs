//! Stopping: the first Ctrl-C (or SIGTERM) finishes the shards in hand, the second gives them up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

const GO: u8 = 0;
const DRAIN: u8 = 1;
const ABORT: u8 = 2;

/// Shared wish to stop.
#[derive(Default)]
pub struct Stop {
    level: AtomicU8,
    pressed: Notify,
}

impl Stop {
    /// Asks for a stop: once to finish what is in hand, again to give up.
    pub fn press(&self) {
        // One step, so that an abort at the same time is not taken back.
        let more = |level| Some(if level == GO { DRAIN } else { ABORT });
        let _ = self.level.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        self.pressed.notify_waiters();
    }

    /// Gives up at once, after an error that ends the run.
    pub fn abort(&self) {
        self.level.store(ABORT, Ordering::SeqCst);
        self.pressed.notify_waiters();
    }

    /// Whether no further shard should be begun.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.level.load(Ordering::SeqCst) >= DRAIN
    }

    /// Whether everything in hand is to be given up.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.level.load(Ordering::SeqCst) >= ABORT
    }

    /// Waits until [`Stop::is_aborted`].
    pub async fn wait_aborted(&self) {
        self.wait(ABORT).await;
    }

    /// Waits until [`Stop::requested`].
    pub async fn wait_requested(&self) {
        self.wait(DRAIN).await;
    }

    /// Does `work`, unless a stop is asked for before it has ended.
    pub async fn unless_pressed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.wait_requested() => None,
            done = work => Some(done),
        }
    }

    async fn wait(&self, level: u8) {
        loop {
            let pressed = self.pressed.notified();
            if self.level.load(Ordering::SeqCst) >= level {
                return;
            }
            pressed.await;
        }
    }
}

/// Connects Ctrl-C and SIGTERM with `stop`. To be called inside a tokio runtime.
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
            stop.press();
            if stop.is_aborted() {
                tracing::warn!("stopping now; unfinished shards are left to the next run");
                end_soon();
            } else {
                tracing::warn!("finishing the shards in hand; interrupt again to stop at once");
            }
        }
    });
    Ok(())
}

/// How long what is given up may take to end.
const LAST_WORDS: Duration = Duration::from_millis(900);
/// Exit code of a run that was stopped.
const STOPPED: i32 = 1;

/// Ends the process within a second, whatever hangs: nothing that counts is half-written at any moment.
fn end_soon() {
    std::thread::spawn(|| {
        std::thread::sleep(LAST_WORDS);
        std::process::exit(STOPPED);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_presses_abort() {
        let stop = Arc::new(Stop::default());
        stop.press();
        assert!(stop.requested() && !stop.is_aborted());
        let waiting = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move { stop.wait_aborted().await }
        });
        tokio::task::yield_now().await;
        stop.press();
        waiting.await.expect("woken");
        assert!(stop.is_aborted());
    }
}
