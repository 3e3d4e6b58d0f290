//! What `recaption finalize` found and did, as text and JSON.

use std::fmt;

use serde::Serialize;

use super::totals::{State, Totals};
use crate::run::{ExitCode, OpenShard, OpenState};

/// Shards of a kind that are named in text.
const MAX_LISTED: usize = 10;

/// What was found and done.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FinalReport {
    /// URL of the output, redacted.
    pub(crate) output: String,
    /// Where the inputs are from: a run or a file.
    pub(crate) inputs: String,
    /// Other workers that live: the numbers are of this moment.
    pub(crate) workers: usize,
    /// Files of dead workers that were removed.
    pub(crate) leftovers_removed: usize,
    /// Deletions that a dead or living worker began, and that were left alone since workers live or may live.
    pub(crate) unfinished_deletions: usize,
    /// The sums, as they were written.
    pub(crate) totals: Totals,
    /// Where the sums were written.
    pub(crate) written: String,
    /// Where the page was written, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<String>,
    /// All inputs that are not committed.
    #[serde(skip)]
    pub(crate) open: Vec<OpenShard>,
}

impl FinalReport {
    /// The exit code that this report means.
    #[must_use]
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.totals.state.exit_code()
    }

    fn write_samples(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.totals.samples;
        writeln!(f, "samples   {} read = {} captioned + {} rejected", c.read, c.captioned, c.rejected)?;
        for (reason, n) in &c.reasons {
            writeln!(f, "          {n:>8} {reason}")?;
        }
        write!(f, "{}", c.input)?;
        for (table, part) in &self.totals.parts {
            let megabytes = part.bytes as f64 / 1e6;
            writeln!(f, "parts     {table}: {} files, {} rows, {megabytes:.1} MB", part.files, part.rows)?;
        }
        let runs = &self.totals.runs;
        writeln!(
            f,
            "runs      {} processes, {} interrupted, {:.1} s together, {} shards done twice",
            runs.processes, runs.interrupted, runs.seconds, runs.shards_done_twice
        )
    }

    fn write_open(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (state, word) in [
            (OpenState::Pending, "pending"),
            (OpenState::Changed, "changed"),
            (OpenState::Invalid, "invalid"),
            (OpenState::Failed, "failed"),
            (OpenState::FailedPermanently, "permanent"),
        ] {
            let mut shards = self.open.iter().filter(|shard| shard.state == state);
            for shard in shards.by_ref().take(MAX_LISTED) {
                match &shard.detail {
                    // Most details begin with the shard's URL.
                    Some(detail) if detail.contains(&shard.shard) => writeln!(f, "{word:<10}{detail}")?,
                    Some(detail) => writeln!(f, "{word:<10}{}: {detail}", shard.shard)?,
                    None => writeln!(f, "{word:<10}{}", shard.shard)?,
                }
            }
            match shards.count() {
                0 => {}
                more => writeln!(f, "          and {more} more")?,
            }
        }
        for shard in self.totals.damaged.iter().take(MAX_LISTED) {
            writeln!(f, "damaged   {shard}")?;
        }
        match self.totals.shards.damaged.saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            more => writeln!(f, "          and {more} more"),
        }
    }

    fn write_advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = &self.totals.shards;
        if self.workers > 0 {
            writeln!(
                f,
                "note      {} other workers live: the numbers are of this moment; finalize again when they have ended",
                self.workers
            )?;
        }
        if shards.pending + shards.changed + shards.invalid > 0 && self.workers == 0 {
            writeln!(
                f,
                "next      run the same command again: it processes what is pending, changed or invalid"
            )?;
        }
        if shards.failed > 0 {
            writeln!(f, "next      `recaption retry {}` tries the failed shards again", self.output)?;
        }
        if shards.failed_permanently > 0 {
            writeln!(
                f,
                "next      repair the shards that fail permanently, or leave them out of the inputs: another attempt is expected to fail the same way"
            )?;
        }
        if shards.orphaned > 0 {
            writeln!(
                f,
                "note      {} shards are no longer among the inputs; `recaption run --retire` removes their rows",
                shards.orphaned
            )?;
        }
        if self.leftovers_removed > 0 {
            writeln!(f, "note      {} files of dead workers were removed", self.leftovers_removed)?;
        }
        if self.unfinished_deletions > 0 {
            writeln!(f, "note      {} deletions are not finished", self.unfinished_deletions)?;
        }
        Ok(())
    }
}

impl fmt::Display for FinalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = &self.totals.shards;
        let state = match self.totals.state {
            State::Complete => "complete",
            State::Incomplete => "incomplete",
            State::PermanentFailures => "all that is left fails permanently",
        };
        writeln!(f, "output    {}", self.output)?;
        writeln!(f, "state     {state}")?;
        writeln!(
            f,
            "shards    {} inputs = {} committed + {} pending + {} changed + {} invalid + {} failed + {} permanently failed; {} damaged",
            shards.inputs,
            shards.committed,
            shards.pending,
            shards.changed,
            shards.invalid,
            shards.failed,
            shards.failed_permanently,
            shards.damaged
        )?;
        writeln!(f, "inputs    of {}", self.inputs)?;
        self.write_samples(f)?;
        self.write_open(f)?;
        self.write_advice(f)?;
        writeln!(f, "totals    {}", self.written)?;
        if let Some(report) = &self.report {
            writeln!(f, "report    {report}")?;
        }
        Ok(())
    }
}
