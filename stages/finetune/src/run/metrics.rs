//! What a run says while it goes: lines of JSON and CSV in files, bars on a terminal.

use std::{
    collections::VecDeque,
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::{
    data::DataCounts,
    open_clip::{OpenClipError, write_whole},
};

/// Points of the curve on a terminal.
const CURVE: usize = 60;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Means over the steps since the last line.
    Train(TrainLine),
    /// A validation.
    Validation(ValidationLine),
}

/// Means over some steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainLine {
    /// Steps done.
    pub step: u64,
    /// Weighted contrastive loss.
    pub contrastive_loss: f64,
    /// Weighted caption loss.
    pub caption_loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// exp(logit_scale): the inverse temperature.
    pub inverse_temperature: f64,
    /// Times that the data was read.
    pub epoch: u64,
    /// Samples per second, loading included.
    pub samples_per_second: f64,
    /// Samples so far.
    pub data: DataCounts,
}

/// Losses on held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationLine {
    /// Steps done.
    pub step: u64,
    /// Weighted contrastive loss, over batches of the training's size.
    pub contrastive_loss: f64,
    /// Weighted caption loss.
    pub caption_loss: f64,
    /// Share of captions of which every id is the likeliest: what greedy decoding gets exactly right.
    pub exact: f64,
    /// Samples.
    pub samples: usize,
    /// Whether it is the best so far.
    pub best: bool,
}

impl Line {
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

const CSV_HEAD: &str =
    "step,kind,contrastive_loss,caption_loss,gradient_norm,lr,samples_per_second,exact,best\n";

/// Where lines go.
pub struct Metrics {
    jsonl: PathBuf,
    csv: PathBuf,
    bars: Option<Bars>,
}

impl Metrics {
    /// Goes on with the files in `out` behind step `step`: lines of later steps, which a killed run left, are dropped.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn resume(out: &Path, step: u64, steps: u64, terminal: bool) -> Result<Self, OpenClipError> {
        let (jsonl, csv) = (out.join("metrics.jsonl"), out.join("metrics.csv"));
        let lines = read(&jsonl);
        let kept = || lines.iter().filter(|line| line.step() <= step);
        let json: String = kept().filter_map(|l| serde_json::to_string(l).ok()).map(|l| l + "\n").collect();
        write_whole(&jsonl, json.as_bytes())?;
        let table: String = std::iter::once(CSV_HEAD.to_owned()).chain(kept().map(Line::csv)).collect();
        write_whole(&csv, table.as_bytes())?;
        let mut bars = terminal.then(|| Bars::new(steps));
        if let Some(bars) = &mut bars {
            kept().for_each(|line| bars.show(line));
        }
        Ok(Self { jsonl, csv, bars })
    }

    /// Adds a line to the files and to what is shown.
    ///
    /// # Errors
    /// A full disk.
    pub fn add(&mut self, line: &Line) -> Result<(), OpenClipError> {
        let json = serde_json::to_string(line).unwrap_or_default() + "\n";
        for (path, text) in [(&self.jsonl, json), (&self.csv, line.csv())] {
            let write =
                || OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes());
            write().map_err(|source| OpenClipError::Write { path: path.clone(), source })?;
        }
        match &mut self.bars {
            Some(bars) => bars.show(line),
            None => match line {
                Line::Train(l) => tracing::info!(
                    step = l.step,
                    contrastive = l.contrastive_loss,
                    caption = l.caption_loss,
                    gradient_norm = l.gradient_norm,
                    lr = l.lr,
                    samples_per_second = l.samples_per_second,
                    "training"
                ),
                Line::Validation(l) => tracing::info!(
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

    /// Shows that a step is done.
    pub fn step(&self, step: u64) {
        if let Some(bars) = &self.bars {
            bars.steps.set_position(step);
        }
    }
}

/// All lines of a `metrics.jsonl`; the last may have been cut by a kill.
#[must_use]
pub fn read(path: &Path) -> Vec<Line> {
    let Ok(file) = std::fs::File::open(path) else { return Vec::new() };
    BufReader::new(file).lines().map_while(Result::ok).filter_map(|l| serde_json::from_str(&l).ok()).collect()
}

/// A bar of steps, the losses with their curve, the last validation.
struct Bars {
    steps: ProgressBar,
    losses: ProgressBar,
    validation: ProgressBar,
    curve: VecDeque<f64>,
}

impl Bars {
    fn new(steps: u64) -> Self {
        let all = MultiProgress::new();
        let style =
            |text: &str| ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = all.add(
            ProgressBar::new(steps)
                .with_style(style("steps       {wide_bar} {pos}/{len}  {elapsed} gone, {eta} left")),
        );
        let line = || ProgressBar::no_length().with_style(style("{prefix:<11} {msg}"));
        let (losses, validation) = (all.add(line()), all.add(line()));
        losses.set_prefix("training");
        validation.set_prefix("validation");
        Self { steps: bar, losses, validation, curve: VecDeque::new() }
    }

    fn show(&mut self, line: &Line) {
        match line {
            Line::Train(l) => {
                self.curve.push_back(l.contrastive_loss + l.caption_loss);
                if self.curve.len() > CURVE {
                    self.curve.pop_front();
                }
                self.losses.set_message(format!(
                    "contrast {:.4}  caption {:.4}  gradient {:.2}  lr {:.1e}  {:.0} samples/s  {}",
                    l.contrastive_loss,
                    l.caption_loss,
                    l.gradient_norm,
                    l.lr,
                    l.samples_per_second,
                    curve(&self.curve)
                ));
            }
            Line::Validation(l) => self.validation.set_message(format!(
                "step {}: contrast {:.4}  caption {:.4}  exact {:.1} %{}",
                l.step,
                l.contrastive_loss,
                l.caption_loss,
                100.0 * l.exact,
                if l.best { "  (best)" } else { "" }
            )),
        }
    }
}

/// Values as eight heights of a block.
fn curve(values: &VecDeque<f64>) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let height = |v: &f64| ((v - low) / (high - low).max(1e-12) * 7.0).round().clamp(0.0, 7.0) as usize;
    values.iter().map(|v| BLOCKS[height(v)]).collect()
}
