//! Metrics of a run: lines of JSON and CSV in files, log lines or progress bars.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::progress_bars::{ProgressBars, ProgressPlan};
use crate::{
    data::DataCounts,
    file::{WriteError, write_atomically},
};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsLine {
    /// Means over the steps since the last line.
    Train(TrainLine),
    /// A validation.
    Validation(ValidationLine),
}

/// Means over the steps since the last line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainLine {
    /// Number of steps done.
    pub step: u64,
    /// Weighted contrastive loss.
    pub contrastive_loss: f64,
    /// Weighted caption loss.
    pub caption_loss: f64,
    /// L2 norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// exp(logit_scale): the inverse temperature.
    pub inverse_temperature: f64,
    /// Number of times that the data was read before.
    pub epoch: u64,
    /// Samples per second, loading included.
    pub samples_per_second: f64,
    /// Counts of samples so far.
    pub data: DataCounts,
}

/// Losses on held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationLine {
    /// Number of steps done.
    pub step: u64,
    /// Weighted contrastive loss over batches of the training's size.
    pub contrastive_loss: f64,
    /// Weighted caption loss.
    pub caption_loss: f64,
    /// Share of captions of which every id is the most likely one, in [0, 1]: those that greedy decoding gets exactly right.
    pub exact: f64,
    /// Number of held-out samples.
    pub samples: usize,
    /// Whether it is the best so far.
    pub best: bool,
}

impl MetricsLine {
    fn step(&self) -> u64 {
        match self {
            Self::Train(line) => line.step,
            Self::Validation(line) => line.step,
        }
    }

    fn csv(&self) -> String {
        match self {
            Self::Train(l) => format!(
                "{},train,{},{},{},{},{},,\n",
                l.step, l.contrastive_loss, l.caption_loss, l.gradient_norm, l.lr, l.samples_per_second
            ),
            Self::Validation(l) => format!(
                "{},validation,{},{},,,,{},{}\n",
                l.step, l.contrastive_loss, l.caption_loss, l.exact, l.best
            ),
        }
    }
}

/// Header of `metrics.csv`.
const CSV_HEADER: &str =
    "step,kind,contrastive_loss,caption_loss,gradient_norm,lr,samples_per_second,exact,best\n";

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
                    gradient_norm = l.gradient_norm,
                    lr = l.lr,
                    samples_per_second = l.samples_per_second,
                    "training"
                ),
                MetricsLine::Validation(l) => tracing::info!(
                    step = l.step,
                    contrastive = l.contrastive_loss,
                    caption = l.caption_loss,
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
