//! The parent: a worker ends with the process that started it, as after SIGTERM.
//!
//! On Linux the kernel sends a signal when the thread that started this process ends (`PR_SET_PDEATHSIG`). A driver's thread may
//! end while the driver goes on, so that the signal is one of its own, and the worker looks whether it has another parent.
//! Elsewhere the worker looks now and then.

use std::{io, sync::Arc};

use rustix::process::{Pid, getppid};

use crate::run::Stop;

/// The parent at the start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent(Option<Pid>);

impl Parent {
    /// Returns the process that is the parent now. To be called as early as possible: a parent that died before is unknown.
    #[must_use]
    pub(crate) fn now() -> Self {
        Self(getppid())
    }

    fn is_gone(self) -> bool {
        Self::now() != self
    }

    /// Stops this process once the parent is gone. Must be called on the main thread, within a tokio runtime: the kernel forgets
    /// the request when the thread that made it ends.
    ///
    /// # Errors
    /// When the signal cannot be handled or asked for.
    pub(crate) fn watch(self, stop: &Arc<Stop>) -> io::Result<()> {
        let mut changes = Changes::start()?;
        let stop = Arc::clone(stop);
        tokio::spawn(async move {
            // It may have died before the signal was asked for.
            while !self.is_gone() {
                changes.next().await;
            }
            tracing::warn!("the parent process is gone; finishing the shards in flight");
            if !stop.requested() {
                stop.request_stop();
            }
        });
        Ok(())
    }
}

/// Moments at which the parent may have changed.
#[cfg(target_os = "linux")]
struct Changes(tokio::signal::unix::Signal);

#[cfg(target_os = "linux")]
impl Changes {
    fn start() -> io::Result<Self> {
        use rustix::process::{Signal, set_parent_process_death_signal};
        use tokio::signal::unix::{SignalKind, signal};
        // Handled before it is asked for: by default it ends the process at once.
        let signal = signal(SignalKind::user_defined1())?;
        set_parent_process_death_signal(Some(Signal::USR1))?;
        Ok(Self(signal))
    }

    async fn next(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(not(target_os = "linux"))]
struct Changes;

#[cfg(not(target_os = "linux"))]
impl Changes {
    fn start() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}
