//! Lines of a run's metrics.

use serde::{Deserialize, Serialize};

use crate::data::DataCounts;

/// Header of `metrics.csv`.
pub(super) const CSV_HEADER: &str =
    "step,kind,contrastive_loss,caption_loss,gradient_norm,lr,samples_per_second,exact,best,matching_loss\n";

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
    /// Weighted caption loss; of an ALBEF the loss of masked words.
    pub caption_loss: f64,
    /// Loss of matching pairs, of an ALBEF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching_loss: Option<f64>,
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
    /// Weighted caption loss; of an ALBEF the loss of masked words.
    pub caption_loss: f64,
    /// Loss of matching pairs, of an ALBEF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching_loss: Option<f64>,
    /// Share of captions of which every id is the most likely one, in [0, 1]: those that greedy decoding gets exactly right. Of an
    /// ALBEF: share of masked words that are the most likely ones.
    pub exact: f64,
    /// Number of held-out samples.
    pub samples: usize,
    /// Whether it is the best so far.
    pub best: bool,
}

impl MetricsLine {
    /// Returns the number of steps done.
    pub(super) fn step(&self) -> u64 {
        match self {
            Self::Train(line) => line.step,
            Self::Validation(line) => line.step,
        }
    }

    /// Formats the line for `metrics.csv`, under [`CSV_HEADER`].
    pub(super) fn csv(&self) -> String {
        let matching = |loss: Option<f64>| loss.map_or(String::new(), |loss| loss.to_string());
        match self {
            Self::Train(l) => format!(
                "{},train,{},{},{},{},{},,,{}\n",
                l.step,
                l.contrastive_loss,
                l.caption_loss,
                l.gradient_norm,
                l.lr,
                l.samples_per_second,
                matching(l.matching_loss)
            ),
            Self::Validation(l) => format!(
                "{},validation,{},{},,,,{},{},{}\n",
                l.step,
                l.contrastive_loss,
                l.caption_loss,
                l.exact,
                l.best,
                matching(l.matching_loss)
            ),
        }
    }
}
