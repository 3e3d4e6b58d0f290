//! How a run treats what is already there.

use chrono::{DateTime, Utc};
use recaption_output::second_pass::Fraction;

use super::array_task::ArrayTask;

/// Options of a run that are no configuration: they may differ from run to run over one output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Replaces an output that was made with another configuration.
    pub overwrite: bool,
    /// Skips shards not modified since.
    pub since: Option<DateTime<Utc>>,
    /// Removes the rows of shards that are no longer among the inputs.
    pub retire: bool,
    /// Runs only if no other run holds the lock.
    pub lock: bool,
    /// Processes only what failed: shards, and shards with samples that were rejected for a transient reason.
    pub retry: bool,
    /// Begins shards, in a seeded order, until this many samples were read.
    pub limit: Option<u64>,
    /// Processes this share of the shards, chosen by seed.
    pub sample: Option<Fraction>,
    /// In an array job, which task of it this is.
    pub task: Option<ArrayTask>,
}
