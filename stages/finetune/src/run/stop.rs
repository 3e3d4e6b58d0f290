//! Stopping by Ctrl-C or SIGTERM: the first finishes the current step and writes a checkpoint, the second ends the process.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Exit code of a process that a second signal ended, as shells report SIGINT.
const INTERRUPTED: i32 = 130;

/// A request to stop, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// Returns whether to stop after the current step.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Requests to stop after the current step.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Listens for signals, on the runtime that it is called on.
    ///
    /// # Errors
    /// Fails when no handler can be installed.
    pub fn listen(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let stop = self.clone();
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::spawn(async move {
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if stop.is_requested() {
                    std::process::exit(INTERRUPTED);
                }
                tracing::warn!(
                    "stopping after this step; interrupt again to stop at once and lose the steps since the last checkpoint"
                );
                stop.request();
            }
        });
        Ok(())
    }
}
