//! What `recaption plan` found: the numbers, and the problems that a run would meet.

use serde::Serialize;

use super::{
    disk::Disk, forecast::Forecast, images::Images, memory::Memory, models::Compute, problem::Problem,
    work::Redo,
};
use crate::run::ExitCode;

/// Shards of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardCounts {
    /// Done and pending.
    pub total: usize,
    /// Done: a run skips them.
    pub done: usize,
    /// To be processed.
    pub pending: usize,
    /// Neither: excluded by the options.
    pub not_selected: usize,
    /// In the output, and no longer among the inputs.
    pub orphaned: usize,
}

/// Bytes of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByteCounts {
    /// Of done and pending shards.
    pub total: u64,
    /// Of shards that are done.
    pub done: u64,
    /// Of shards to be processed.
    pub pending: u64,
}

/// What a run would do, take and cost, and what would make it fail.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// URL of the output, redacted; empty without one.
    pub output: String,
    /// Whether a run would find everything that it needs.
    pub is_ready: bool,
    /// Shards.
    pub shards: ShardCounts,
    /// Bytes.
    pub bytes: ByteCounts,
    /// Images.
    pub images: Images,
    /// Shards with a record that are processed again, by reason.
    pub redo: Vec<Redo>,
    /// Provider, devices, copies of the model.
    pub compute: Option<Compute>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Disk space, where the output is on this machine.
    pub disk: Option<Disk>,
    /// Hours and cost, where a rate is known.
    pub forecast: Option<Forecast>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// What would make a run fail.
    pub problems: Vec<Problem>,
}

impl PlanReport {
    /// Returns the exit code that this report means.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if self.problems.is_empty() { ExitCode::Done } else { ExitCode::Usage }
    }
}
