//! What the stages of a run share, in one place each: the run's context, and the state of one pass over the shards.

use std::sync::{Arc, Mutex, PoisonError};

use recaption_messages::ByteBudget;
use tokio::sync::Semaphore;

use super::{
    devices::Devices,
    model::RunModel,
    progress::Progress,
    read_limit::ReadLimit,
    sampling::Sampling,
    source::{ShardSource, Tasks},
    stop::Stop,
};
use crate::config::RunConfig;

/// What captioning needs, whatever happens to the captions: configuration, models, devices, the stop signal and progress.
#[derive(Clone, Copy, Debug)]
pub struct RunContext<'a> {
    /// The validated configuration.
    pub config: &'a RunConfig,
    /// Captioner and scorer, with the settings that depend on them.
    pub model: &'a RunModel,
    /// The GPUs, or the CPU.
    pub devices: &'a Arc<Devices>,
    /// Set by signals and by errors that end the run.
    pub stop: &'a Arc<Stop>,
    /// Counters for the reporter.
    pub progress: &'a Arc<Progress>,
}

/// State of one pass over shards, shared by the threads and tasks of all stages.
pub(crate) struct RunState {
    /// All shards that have a number.
    pub(crate) tasks: Arc<Tasks>,
    /// Which of them is next.
    pub(crate) source: Arc<ShardSource>,
    /// Where only some samples of each shard are read, which.
    pub(super) sampling: Option<Arc<Sampling>>,
    /// Where reading ends after some samples, when.
    pub(super) limit: Option<ReadLimit>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) progress: Arc<Progress>,
    /// Places for open shards.
    pub(super) window: Arc<Semaphore>,
    pub(super) budget: ByteBudget,
    /// First error that ends the run.
    fatal: Mutex<Option<anyhow::Error>>,
}

impl RunState {
    /// Creates the state of a pass over the shards of `source` with at most `window` of them open, and `budget` bytes of images in flight.
    #[must_use]
    pub(crate) fn new(
        context: RunContext<'_>,
        (tasks, source): (Arc<Tasks>, Arc<ShardSource>),
        (sampling, limit): (Option<Arc<Sampling>>, Option<ReadLimit>),
        window: usize,
    ) -> Self {
        Self {
            tasks,
            source,
            sampling,
            limit,
            stop: Arc::clone(context.stop),
            progress: Arc::clone(context.progress),
            window: Arc::new(Semaphore::new(window)),
            budget: ByteBudget::new(context.config.input.buffer_bytes),
            fatal: Mutex::new(None),
        }
    }

    /// Ends the run. The first error is the one that is reported.
    pub(crate) fn fail(&self, error: anyhow::Error) {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop.abort();
    }

    /// Takes the error that ended the run, if one did.
    pub(super) fn take_error(&self) -> Option<anyhow::Error> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
impl RunState {
    /// A state without shards' data, for tests of the queue and the window.
    pub(super) fn for_tests(source: ShardSource, window: usize) -> Self {
        Self {
            tasks: Arc::default(),
            source: Arc::new(source),
            sampling: None,
            limit: None,
            stop: Arc::default(),
            progress: Arc::default(),
            window: Arc::new(Semaphore::new(window)),
            budget: ByteBudget::new(1 << 20),
            fatal: Mutex::new(None),
        }
    }
}
