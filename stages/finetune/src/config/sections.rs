//! The sections of a recipe, with their defaults and where those come from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::{Caption, CropSettings, Format};

/// `[model]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Directory in open_clip's format: configuration, tokenizer and, unless `init` is `random`, weights.
    pub checkpoint: PathBuf,
    /// Where the weights come from.
    #[serde(default)]
    pub init: Initialisation,
    /// Type of the saved weights: as they came, or another.
    #[serde(default)]
    pub save_as: SaveAs,
    /// Parts that do not learn: `image`, `pooler`, `text`, `decoder`, `temperature`, `image:6` (the first six blocks).
    #[serde(default)]
    pub freeze: Vec<String>,
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Initialisation {
    /// The checkpoint's.
    #[default]
    Checkpoint,
    /// Random: recaption-onnx's table of parameters, which is open_clip's but for larger image positions.
    Random,
}

/// Type of saved weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveAs {
    /// Each tensor in its type.
    #[default]
    Source,
    /// All single.
    Fp32,
    /// All half: half the size, the usual choice for publishing.
    Fp16,
}

/// `[data]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Shards to train on: URLs, globs, brace ranges, as in `recaption run`.
    pub train: Vec<String>,
    /// Shards to judge by; none: no early stopping, the last step is kept.
    #[serde(default)]
    pub validation: Vec<String>,
    /// Tar shards, or outputs of `recaption run`.
    #[serde(default)]
    pub format: Format,
    /// Where the caption is: `text`, `original`, `json.KEY`.
    #[serde(default = "default_caption")]
    pub caption: Caption,
    /// Examples that are shuffled together, across shards.
    #[serde(default = "default_shuffle")]
    pub shuffle_buffer: usize,
    /// Random resized crop; none by default: a caption may speak of what a crop removes.
    #[serde(default)]
    pub crop: Option<CropSettings>,
    /// Samples of the validation set, at most.
    #[serde(default = "default_validation_samples")]
    pub validation_samples: usize,
    /// Bytes of decoded images that are kept between epochs.
    #[serde(default = "default_cache")]
    pub cache_bytes: usize,
}

/// `[objective]`
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveSection {
    /// lambda_con.
    pub contrastive: f64,
    /// lambda_cap.
    pub caption: f64,
    /// Label smoothing of the caption loss.
    pub label_smoothing: f64,
}

impl Default for ObjectiveSection {
    /// CoCa's pre-training (Yu et al. 2022, section 4.1).
    fn default() -> Self {
        Self { contrastive: 1.0, caption: 2.0, label_smoothing: 0.0 }
    }
}

/// `[optimizer]`
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSection {
    /// Peak learning rate.
    pub lr: f64,
    /// Steps in all.
    pub steps: u64,
    /// Steps of linear warm-up.
    #[serde(default = "default_warmup")]
    pub warmup_steps: u64,
    /// Share of the peak at the end of the cosine.
    #[serde(default)]
    pub final_ratio: f64,
    /// AdamW's betas.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Weight decay, on matrices.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 is off.
    #[serde(default = "default_clip")]
    pub clip_norm: f64,
    /// Factor on the learning rate for every block further from the end of its tower; 1 is off.
    #[serde(default = "default_layer_decay")]
    pub layer_decay: f64,
    /// Decay of the moving average that is validated and saved; 0 is off.
    #[serde(default)]
    pub ema_decay: f64,
}

/// `[run]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// Folder of everything that the run writes.
    pub out: PathBuf,
    /// Samples per step.
    pub batch_size: usize,
    /// Samples per forward pass; less than `batch_size` accumulates gradients over the whole batch's negatives.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Seed of weights, orders and crops.
    #[serde(default)]
    pub seed: u64,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "default_device")]
    pub device: String,
    /// Type of matrix products.
    #[serde(default)]
    pub precision: Compute,
    /// Steps between checkpoints.
    #[serde(default = "default_every")]
    pub checkpoint_every: u64,
    /// Steps between validations.
    #[serde(default = "default_every")]
    pub validate_every: u64,
    /// Validations without a better one before the run stops; 0 is never.
    #[serde(default)]
    pub patience: u64,
    /// Steps between lines of the log.
    #[serde(default = "default_log_every")]
    pub log_every: u64,
}

/// Type of matrix products; parameters, optimizer, LayerNorm and losses are single.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Single.
    #[default]
    Fp32,
    /// bfloat16, on devices that have it.
    Bf16,
}

fn default_caption() -> Caption {
    Caption::Text
}
fn default_shuffle() -> usize {
    10_000
}
fn default_validation_samples() -> usize {
    2048
}
fn default_cache() -> usize {
    2 << 30
}
/// The paper's, for fine-tuning.
fn default_warmup() -> u64 {
    1000
}
/// open_clip's for ViTs.
fn default_betas() -> [f64; 2] {
    [0.9, 0.98]
}
fn default_epsilon() -> f64 {
    1e-6
}
/// The paper's, for fine-tuning.
fn default_weight_decay() -> f64 {
    0.1
}
fn default_clip() -> f64 {
    1.0
}
fn default_layer_decay() -> f64 {
    1.0
}
fn default_device() -> String {
    "cpu".into()
}
fn default_every() -> u64 {
    500
}
fn default_log_every() -> u64 {
    50
}

impl RunSection {
    /// Samples per forward pass.
    #[must_use]
    pub fn part(&self) -> usize {
        self.micro_batch.unwrap_or(self.batch_size)
    }
}
