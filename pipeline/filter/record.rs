//! The report of a second pass: on stdout, and in `_recaption/filter.json`.

use recaption_output::second_pass::{CopyCounts, Cutoff, PassRecord, ScoreColumn, Selection, SourceDataset};
use recaption_store::Location;
use serde::Serialize;

/// The record, written last: a filtered dataset without one is incomplete.
pub(crate) const FILTER_RECORD: &str = "_recaption/filter.json";

/// Where the source's rows went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FilterCounts {
    /// Rows of the source.
    pub read: u64,
    /// Rows at or above the threshold.
    pub selected: u64,
    /// Rows below it.
    pub below: u64,
    /// Rows without the score.
    pub missing: u64,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct FilterReport {
    /// Recaption's version.
    pub version: &'static str,
    /// The dataset that was read.
    pub source: String,
    /// The dataset that was written.
    pub output: String,
    /// The selection.
    #[serde(flatten)]
    pub pass: PassRecord,
    /// Where all rows went, those of shards that were done before included.
    pub rows: FilterCounts,
    /// With `keep_top`: rows that were selected beyond the share, because they are equal to the threshold.
    pub ties: Option<u64>,
    /// Shards copied now.
    pub shards_done: usize,
    /// Shards that an earlier attempt had copied.
    pub shards_skipped: usize,
    /// Start, RFC 3339.
    pub started: String,
    /// End, RFC 3339.
    pub finished: String,
}

impl FilterReport {
    /// At the start of the copying.
    #[must_use]
    pub fn begin(
        source: &SourceDataset,
        output: &Location,
        selection: &Selection,
        totals: CopyCounts,
        (todo, done): (usize, usize),
    ) -> Self {
        let CopyCounts { read, selected, missing } = totals;
        let ties = match selection.cutoff {
            Cutoff::KeepTop(share) => Some(selected.saturating_sub(share.of(read - missing))),
            Cutoff::AtLeast(_) => None,
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            source: source.location.url(),
            output: output.url(),
            pass: selection.record(),
            rows: FilterCounts { read, selected, below: read - selected - missing, missing },
            ties,
            shards_done: todo,
            shards_skipped: done,
            started: chrono::Utc::now().to_rfc3339(),
            finished: String::new(),
        }
    }

    /// At the end.
    pub fn end(&mut self) {
        self.finished = chrono::Utc::now().to_rfc3339();
    }
}

impl std::fmt::Display for FilterReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pass, rows) = (&self.pass, &self.rows);
        let by = pass.by;
        match (pass.threshold, &pass.keep_top) {
            (None, _) => writeln!(f, "threshold none: no row has {by}")?,
            (Some(t), None) => {
                let least = pass.min_similarity.as_ref().or(pass.min_itm.as_ref());
                writeln!(f, "threshold {by} >= {}", least.cloned().unwrap_or(t.to_string()))?;
            }
            (Some(t), Some(top)) => {
                let ties = self.ties.unwrap_or(0);
                let (scored, note) = (rows.read - rows.missing, if ties == 1 { "equals" } else { "equal" });
                write!(f, "threshold {by} >= {t} (top {top} of {scored}")?;
                writeln!(
                    f,
                    "{})",
                    if ties > 0 { format!("; {ties} more {note} it") } else { String::new() }
                )?;
            }
        }
        writeln!(f, "shards    {} done, {} skipped", self.shards_done, self.shards_skipped)?;
        let kept = if pass.column.is_some() { "selected" } else { "kept" };
        write!(f, "rows      {} read = {} {kept} + {} below", rows.read, rows.selected, rows.below)?;
        writeln!(
            f,
            "{}",
            if rows.missing > 0 { format!(" + {} without {by}", rows.missing) } else { String::new() }
        )?;
        match &pass.column {
            Some(name) => writeln!(f, "column    {name}: true where selected; all rows are there"),
            None => {
                let is_matching =
                    [ScoreColumn::Itm, ScoreColumn::OrgItm].iter().any(|one| one.as_str() == by);
                let column = if is_matching { ScoreColumn::Itm } else { ScoreColumn::Similarity };
                writeln!(f, "rejects   {} rows more, as {}", rows.below + rows.missing, column.reason())
            }
        }?;
        writeln!(f, "output    {}", self.output)
    }
}
