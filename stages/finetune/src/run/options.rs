//! How a run is started and how it ended.

use super::finish::TrainedModel;

/// How a run treats what it finds and shows its progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainOptions {
    /// Whether to start over where another recipe has left checkpoints.
    pub overwrite: bool,
    /// Whether to show progress bars instead of log lines.
    pub terminal: bool,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum TrainOutcome {
    /// The model is trained and exported.
    Finished(Box<TrainedModel>),
    /// A signal stopped the run after this step; the same command continues.
    Stopped(u64),
}
