//! Stopping: Ctrl-C or SIGTERM finishes the step in hand and writes a checkpoint; the second time the process ends.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Shared wish to stop.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether to stop behind the step in hand.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Asks for it.
    pub fn press(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Listens for signals, on the runtime that it is called on.
    ///
    /// # Errors
    /// When no handler can be installed.
    pub fn listen(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let stop = self.clone();
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::spawn(async move {
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if stop.requested() {
                    std::process::exit(130);
                }
                tracing::warn!(
                    "stopping behind this step; once more to stop at once, losing the steps since the last checkpoint"
                );
                stop.press();
            }
        });
        Ok(())
    }
}
