//! The request of a second pass.

use recaption_output::second_pass::{Cutoff, ScoreColumn};
use recaption_store::StoreSettings;

/// What a second pass reads, writes and selects.
#[derive(Clone, Debug)]
pub struct FilterJob {
    /// The output of a run, or of an earlier pass.
    pub source: String,
    /// Where the new dataset is written.
    pub output: String,
    /// The column that is compared with the threshold.
    pub by: ScoreColumn,
    /// The threshold, or the share that is kept.
    pub cutoff: Cutoff,
    /// Keeps all rows and marks the selected ones in a column of this name.
    pub column: Option<String>,
    /// Replaces what another pass or run left at the output.
    pub overwrite: bool,
    /// Timeouts and retries of both stores.
    pub stores: StoreSettings,
}
