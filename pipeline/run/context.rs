//! What the stages of a run share, in one place each: the run's context, and the state of one pass over the shards.

use std::sync::{Arc, Mutex, PoisonError};

use recaption_input::shards::ShardRef;
use recaption_messages::ByteBudget;
use tokio::sync::Semaphore;

use super::{
    devices::Devices, model::RunModel, progress::Progress, read_limit::ReadLimit, sampling::Sampling,
    shard_queue::ShardQueue, stop::Stop, worker_claims::WorkerClaims,
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
    pub(super) shards: Vec<ShardRef>,
    pub(super) queue: ShardQueue,
    /// Which shards other workers claim or have done; `None` where nothing is committed.
    pub(super) claims: Option<WorkerClaims>,
    /// Where only some samples of each shard are read, which.
    pub(super) sampling: Option<Arc<Sampling>>,
    /// Where reading ends after some samples, when.
    pub(super) limit: Option<ReadLimit>,
    pub(super) stop: Arc<Stop>,
    pub(super) progress: Arc<Progress>,
    /// Places for open shards.
    pub(super) window: Arc<Semaphore>,
    pub(super) budget: ByteBudget,
    /// First error that ends the run.
    fatal: Mutex<Option<anyhow::Error>>,
}

impl RunState {
    /// Creates the state of a pass over `shards` with at most `window` of them open, and `budget` bytes of images in flight.
    #[must_use]
    pub(crate) fn new(
        context: RunContext<'_>,
        (shards, queue): (Vec<ShardRef>, ShardQueue),
        claims: Option<WorkerClaims>,
        (sampling, limit): (Option<Arc<Sampling>>, Option<ReadLimit>),
        window: usize,
    ) -> Self {
        Self {
            shards,
            queue,
            claims,
            sampling,
            limit,
            stop: Arc::clone(context.stop),
            progress: Arc::clone(context.progress),
            window: Arc::new(Semaphore::new(window)),
            budget: ByteBudget::new(context.config.input.buffer_bytes),
            fatal: Mutex::new(None),
        }
    }

    /// Shuffles the shards that are left, since another worker processes the same ones, unless a limit takes the beginning of a
    /// seeded order.
    pub(super) fn shuffle_remaining(&self) {
        if self.limit.is_none() {
            self.queue.shuffle_remaining();
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
    pub(super) fn for_tests(queue: ShardQueue, window: usize) -> Self {
        Self {
            shards: Vec::new(),
            queue,
            claims: None,
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
