//! Metrics of a run: lines of JSON and CSV in files, log lines or progress bars.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use super::{
    metrics_line::{CSV_HEADER, MetricsLine},
    progress_bars::{ProgressBars, ProgressPlan},
};
use crate::file::{WriteError, write_atomically};

/// The metrics' files, and the progress bars.
pub(super) struct Metrics {
    jsonl: PathBuf,
    csv: PathBuf,
    bars: Option<ProgressBars>,
}

impl Metrics {
    /// Continues the files in `out` after step `step`: lines of later steps, which a killed run left, are removed. With a plan,
    /// progress bars are shown.
    ///
    /// # Errors
    /// Fails when the files cannot be written.
    pub(super) fn resume(out: &Path, step: u64, plan: Option<ProgressPlan>) -> Result<Self, WriteError> {
        let (jsonl, csv) = (out.join("metrics.jsonl"), out.join("metrics.csv"));
        let lines = read(&jsonl);
        let kept = || lines.iter().filter(|line| line.step() <= step);
        let json: String = kept().filter_map(|l| serde_json::to_string(l).ok()).map(|l| l + "\n").collect();
        write_atomically(&jsonl, json.as_bytes())?;
        let table: String =
            std::iter::once(CSV_HEADER.to_owned()).chain(kept().map(MetricsLine::csv)).collect();
        write_atomically(&csv, table.as_bytes())?;
        let mut bars = plan.map(ProgressBars::new);
        if let Some(bars) = &mut bars {
            bars.set_step(step);
            kept().for_each(|line| bars.show(line));
        }
        Ok(Self { jsonl, csv, bars })
    }

    /// Appends a line to the files, and shows or logs it.
    ///
    /// # Errors
    /// Fails when a file cannot be written.
    pub(super) fn add(&mut self, line: &MetricsLine) -> Result<(), WriteError> {
        let json = serde_json::to_string(line).unwrap_or_default() + "\n";
        for (path, text) in [(&self.jsonl, json), (&self.csv, line.csv())] {
            let write =
                || OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes());
            write().map_err(|source| WriteError { path: path.clone(), source })?;
        }
        match &mut self.bars {
            Some(bars) => bars.show(line),
            None => match line {
                MetricsLine::Train(l) => tracing::info!(
                    step = l.step,
                    contrastive = l.contrastive_loss,
                    caption = l.caption_loss,
                    matching = l.matching_loss,
                    gradient_norm = l.gradient_norm,
                    lr = l.lr,
                    samples_per_second = l.samples_per_second,
                    "training"
                ),
                MetricsLine::Validation(l) => tracing::info!(
                    step = l.step,
                    contrastive = l.contrastive_loss,
                    caption = l.caption_loss,
                    matching = l.matching_loss,
                    exact = l.exact,
                    best = l.best,
                    "validation"
                ),
            },
        }
        Ok(())
    }

    /// Shows the number of steps done.
    pub(super) fn set_step(&self, step: u64) {
        if let Some(bars) = &self.bars {
            bars.set_step(step);
        }
    }
}

/// Reads all whole lines of a `metrics.jsonl`; a missing file has none.
#[must_use]
pub fn read(path: &Path) -> Vec<MetricsLine> {
    let Ok(file) = std::fs::File::open(path) else { return Vec::new() };
    BufReader::new(file).lines().map_while(Result::ok).filter_map(|l| serde_json::from_str(&l).ok()).collect()
}
