//! A thread or task that panics ends the run: what it had would be waited for without end.

use std::sync::Arc;

use anyhow::anyhow;

use super::context::RunState;

/// Fails the run if it is dropped by a panic.
pub(super) struct PanicGuard {
    state: Arc<RunState>,
    what: &'static str,
}

impl PanicGuard {
    /// Guards the rest of the scope, of `what`: "a reader".
    #[must_use]
    pub(super) fn new(state: &Arc<RunState>, what: &'static str) -> Self {
        Self { state: Arc::clone(state), what }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.state.fail(anyhow!("internal error: {} panicked", self.what));
        }
    }
}
