//! What metrics are read from: filled by a run as it goes on, readable at any time.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use recaption_output::commits::WorkerCount;
use recaption_store::StoreCounters;

use super::gpu_memory::GpuMemory;
use crate::run::Progress;

/// Numbers of shards, known once a run is planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlannedShards {
    /// To be processed.
    pub todo: usize,
    /// Done by an earlier run.
    pub skipped: usize,
    /// Not selected: not modified since `--since`, or with nothing to retry.
    pub not_selected: usize,
    /// Bytes of those to be processed.
    pub bytes: u64,
}

/// What a run computes with, and where its rows go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunFacts {
    /// URL of the output, redacted.
    pub(crate) output: String,
    /// Digest of the captioner.
    pub(crate) model: String,
    /// Digest of the scorer; empty where it is the captioner.
    pub(crate) scorer: String,
}

/// A run as metrics see it. Everything before the run has come so far is zero.
#[derive(Debug)]
pub struct Monitor {
    pub(super) started: SystemTime,
    clock: Instant,
    stores: OnceLock<Arc<StoreCounters>>,
    facts: OnceLock<RunFacts>,
    planned: Mutex<PlannedShards>,
    /// Shards of the plan that were not begun because of a limit.
    left_out: AtomicUsize,
    progress: OnceLock<Arc<Progress>>,
    workers: OnceLock<WorkerCount>,
    gpu_memory: Mutex<Vec<GpuMemory>>,
    nothing: (Arc<StoreCounters>, Arc<Progress>),
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            clock: Instant::now(),
            stores: OnceLock::new(),
            facts: OnceLock::new(),
            planned: Mutex::default(),
            left_out: AtomicUsize::new(0),
            progress: OnceLock::new(),
            workers: OnceLock::new(),
            gpu_memory: Mutex::default(),
            nothing: (Arc::default(), Arc::default()),
        }
    }
}

impl Monitor {
    /// Watches requests to stores.
    pub(crate) fn watch_stores(&self, stores: Arc<StoreCounters>) {
        // A monitor watches one run, so that everything is set once.
        let _ = self.stores.set(stores);
    }

    /// Remembers what the run computes with.
    pub(crate) fn describe(&self, facts: RunFacts) {
        let _ = self.facts.set(facts);
    }

    /// Remembers the plan; a worker's grows.
    pub(crate) fn planned(&self, shards: PlannedShards) {
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = shards;
    }

    /// Notes shards of the plan that were not begun because of a limit: they count as not selected.
    pub(crate) fn leave_out(&self, shards: usize) {
        self.left_out.store(shards, Relaxed);
    }

    pub(super) fn left_out(&self) -> usize {
        self.left_out.load(Relaxed)
    }

    /// Watches the stages.
    pub(crate) fn watch(&self, progress: &Arc<Progress>) {
        let _ = self.progress.set(Arc::clone(progress));
    }

    /// Watches the other workers.
    pub(crate) fn watch_workers(&self, workers: WorkerCount) {
        let _ = self.workers.set(workers);
    }

    pub(super) fn set_gpu_memory(&self, memory: Vec<GpuMemory>) {
        *self.gpu_memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }

    pub(super) fn gpu_memory(&self) -> Vec<GpuMemory> {
        self.gpu_memory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn stores(&self) -> &StoreCounters {
        self.stores.get().unwrap_or(&self.nothing.0)
    }

    pub(super) fn facts(&self) -> Option<&RunFacts> {
        self.facts.get()
    }

    pub(super) fn planned_shards(&self) -> PlannedShards {
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self) -> &Progress {
        self.progress.get().unwrap_or(&self.nothing.1)
    }

    /// Returns the number of workers that live, this one included.
    pub(super) fn workers(&self) -> usize {
        1 + self.workers.get().map_or(0, WorkerCount::others)
    }

    /// Returns the time since the run started.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}
