//! Attempts at requests to one store, and the errors of attempts that fail without one of the store's own.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use object_store::{Error, ObjectStore, Result, path::Path};

use crate::{ErrorKind, RetryBudget, StoreCounters, StoreOperation, StoreSettings, user_message};

/// A store and the settings of requests to it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Attempts {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) settings: StoreSettings,
    /// Counts requests and further attempts.
    pub(super) counters: Arc<StoreCounters>,
}

impl Attempts {
    /// Repeats `call` until it succeeds, fails permanently, or the budget is used up. `verb` names it in the log;
    /// `timeout` bounds each attempt.
    pub(super) async fn run<T>(
        &self,
        (operation, verb): (StoreOperation, &str),
        location: &Path,
        timeout: Duration,
        call: impl Fn(Arc<dyn ObjectStore>) -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        let mut budget = self.budget();
        loop {
            self.counters.count(operation);
            let error = match tokio::time::timeout(timeout, call(Arc::clone(&self.inner))).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => timeout_error(timeout),
            };
            self.pause(&mut budget, verb, location, error).await?;
        }
    }

    /// Returns the attempts of one operation.
    pub(super) fn budget(&self) -> RetryBudget {
        self.settings.retry.budget()
    }

    /// Pauses before another attempt, or returns the error where there is none.
    pub(super) async fn pause(
        &self,
        budget: &mut RetryBudget,
        operation: &str,
        location: &Path,
        error: Error,
    ) -> Result<()> {
        let transient = ErrorKind::of(&error) == ErrorKind::Transient;
        let Some(pause) = transient.then(|| budget.next_pause(None)).flatten() else { return Err(error) };
        self.counters.count_retry();
        tracing::warn!(
            object = %location,
            pause_seconds = pause.as_secs_f64(),
            attempts_left = budget.left(),
            error = user_message(&error),
            "{operation} failed; retrying"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Returns an input or output error as a store's.
pub(super) fn io_error(kind: std::io::ErrorKind, what: String) -> Error {
    Error::Generic { store: "recaption", source: Box::new(std::io::Error::new(kind, what)) }
}

/// Returns the error of a request without response.
pub(super) fn timeout_error(timeout: Duration) -> Error {
    io_error(std::io::ErrorKind::TimedOut, format!("no response within {} seconds", timeout.as_secs()))
}
