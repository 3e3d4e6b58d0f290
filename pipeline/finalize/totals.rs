//! Commit records, compared with the inputs -> the sums of an output.

use std::collections::{BTreeMap, HashSet};

use recaption_input::read::Split;
use recaption_output::{
    commits::{OutputScan, RecordSummary},
    layout::TOTALS,
};
use recaption_schemas::Counts;
use recaption_store::{Location, StoreError, read_json};
use serde::{Deserialize, Serialize};

use super::runs::{RunTotals, list_runs};
use crate::run::{Comparison, ExitCode, OpenShard, OpenState};

/// Version of the layout of `totals.json`.
const FORMAT: u32 = 1;
/// Shards of a kind that are listed; the rest is counted.
const MAX_LISTED: usize = 1000;

/// Whether an output is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// All inputs are committed.
    Complete,
    /// Inputs are left that another run may commit.
    Incomplete,
    /// All inputs that are left fail permanently.
    PermanentFailures,
}

/// Numbers of shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ShardTotals {
    /// Inputs.
    pub(crate) inputs: usize,
    /// Inputs with a valid record of their version.
    pub(crate) committed: usize,
    /// Bytes of these inputs.
    pub(crate) committed_bytes: u64,
    /// Inputs without a record.
    pub(crate) pending: usize,
    /// Inputs that changed since they were committed.
    pub(crate) changed: usize,
    /// Inputs whose record or part cannot be used.
    pub(crate) invalid: usize,
    /// Inputs that failed and may pass when tried again.
    pub(crate) failed: usize,
    /// Inputs that failed the same way before, or were given up.
    pub(crate) failed_permanently: usize,
    /// Shards with rows that could be read only in part.
    pub(crate) damaged: usize,
    /// Shards with rows that are no longer among the inputs.
    pub(crate) orphaned: usize,
    /// Shards with rows.
    pub(crate) with_rows: usize,
}

/// Sizes of the parts of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PartTotals {
    /// Files.
    pub(crate) files: u64,
    /// Rows, or samples of webdataset parts.
    pub(crate) rows: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// The sums of an output: what `_recaption/totals.json` holds. No time and no host: the same records give the same bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Totals {
    /// Version of this layout.
    pub(crate) format: u32,
    /// Whether it is complete.
    pub(crate) state: State,
    /// Fingerprint of the configuration, unless an old version made the output.
    pub(crate) configuration: Option<String>,
    /// Numbers of shards.
    pub(crate) shards: ShardTotals,
    /// Where the samples of all shards with rows went.
    pub(crate) samples: Counts,
    /// The parts, by table.
    pub(crate) parts: BTreeMap<String, PartTotals>,
    /// The first inputs that are not committed, by URL.
    pub(crate) open: Vec<OpenShard>,
    /// The first damaged shards, by URL, with the damage.
    pub(crate) damaged: Vec<String>,
    /// The runs.
    pub(crate) runs: RunTotals,
}

impl Totals {
    /// Sums up.
    pub(crate) fn new(
        scan: &OutputScan,
        split: &Split,
        comparison: &Comparison,
        configuration: Option<String>,
        runs: RunTotals,
    ) -> Self {
        let open = comparison.open_by_state();
        let number = |state| open.get(&state).copied().unwrap_or(0);
        let mut totals = Self {
            format: FORMAT,
            state: State::of(comparison),
            shards: ShardTotals {
                inputs: split.shards.len(),
                committed: comparison.done,
                committed_bytes: comparison.done_bytes,
                pending: number(OpenState::Pending),
                changed: number(OpenState::Changed),
                invalid: number(OpenState::Invalid),
                failed: number(OpenState::Failed),
                failed_permanently: number(OpenState::FailedPermanently),
                orphaned: comparison.orphaned,
                ..ShardTotals::default()
            },
            samples: Counts::default(),
            parts: BTreeMap::new(),
            open: comparison.open.iter().take(MAX_LISTED).cloned().collect(),
            damaged: Vec::new(),
            runs,
            configuration,
        };
        for summary in records_with_rows(scan, split, totals.configuration.as_deref()) {
            totals.add(summary);
        }
        totals
    }

    fn add(&mut self, summary: &RecordSummary) {
        self.shards.with_rows += 1;
        self.samples.add(&summary.counts);
        for part in summary.parts() {
            let table = part.path.split('/').next().unwrap_or_default();
            let sum = self.parts.entry(table.to_owned()).or_default();
            sum.files += 1;
            sum.rows += part.rows;
            sum.bytes += part.bytes;
        }
        if let Some(damage) = &summary.damaged {
            self.shards.damaged += 1;
            if self.damaged.len() < MAX_LISTED {
                self.damaged.push(format!("{}: {}", summary.shard, damage.detail));
            }
        }
    }

    /// Returns whether the output has rows.
    pub(crate) fn has_rows(&self) -> bool {
        self.shards.with_rows > 0
    }
}

impl State {
    fn of(comparison: &Comparison) -> Self {
        if comparison.open.is_empty() {
            Self::Complete
        } else if comparison.open.iter().all(|shard| shard.state == OpenState::FailedPermanently) {
            Self::PermanentFailures
        } else {
            Self::Incomplete
        }
    }

    /// The exit code that it means. Damaged shards are committed, and no run reads them again: they change nothing here.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Complete => ExitCode::Done,
            Self::Incomplete => ExitCode::Incomplete,
            Self::PermanentFailures => ExitCode::Permanent,
        }
    }
}

/// What `totals.json` says about an output as a whole.
#[derive(Deserialize)]
struct Verdict {
    state: State,
    runs: Ended,
}

/// Records of runs that the totals are of.
#[derive(Deserialize)]
struct Ended {
    processes: usize,
    unreadable: usize,
}

/// Returns whether `recaption finalize` found an output complete, and no run has ended there since.
///
/// # Errors
/// Returns an error when the totals cannot be read, or the records of runs cannot be listed.
pub(crate) async fn is_complete(output: &Location) -> Result<bool, StoreError> {
    let verdict = match read_json::<Verdict>(&output.child(TOTALS)).await {
        Ok(verdict) => verdict,
        // Of another version.
        Err(StoreError::Record { .. }) => None,
        Err(error) => return Err(error),
    };
    let Some(verdict) = verdict.filter(|verdict| verdict.state == State::Complete) else { return Ok(false) };
    let ended = verdict.runs.processes + verdict.runs.unreadable;
    Ok(ended == list_runs(output).await?.len())
}

/// Returns one valid record of each shard, in the order of their URLs: of the input's version if there is one. A worker that died
/// between its record and the deletion of the one before leaves two.
fn records_with_rows<'a>(
    scan: &'a OutputScan,
    split: &Split,
    claimed: Option<&str>,
) -> impl Iterator<Item = &'a RecordSummary> + use<'a> {
    let inputs: HashSet<(&str, String)> =
        split.shards.iter().map(|shard| (shard.id.as_str(), shard.fingerprint())).collect();
    let mut best: BTreeMap<&str, (bool, String, &RecordSummary)> = BTreeMap::new();
    for (shard, record) in scan.records() {
        let is_claimed = claimed.is_none_or(|claimed| record.name.configuration == claimed);
        let Some(summary) = record.summary.as_ref().filter(|_| record.is_valid() && is_claimed) else {
            continue;
        };
        let candidate = (inputs.contains(&(shard, record.name.input.clone())), record.path(), summary);
        let is_better = best
            .get(summary.shard.as_str())
            .is_none_or(|(is_input, path, _)| (candidate.0, &candidate.1) > (*is_input, path));
        if is_better {
            best.insert(&summary.shard, candidate);
        }
    }
    best.into_values().map(|(_, _, summary)| summary)
}
