//! A recipe: TOML in, validated settings out. Every key has a default but the model, the data and the output.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    data::{Caption, CropSettings, Format},
    objective::Weights,
    optim::{AdamWSettings, Freeze, Schedule},
};

/// A recipe as it is written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is trained.
    pub model: ModelSection,
    /// On what.
    pub data: DataSection,
    /// Towards what.
    #[serde(default)]
    pub objective: ObjectiveSection,
    /// By which steps.
    pub optimizer: OptimizerSection,
    /// How the run goes.
    pub run: RunSection,
}

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

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {what}")]
pub struct RecipeError {
    /// The file, or the flag.
    pub origin: String,
    /// What is wrong.
    pub what: String,
}

impl RecipeError {
    /// Of a recipe that proved to be impossible while it was worked on.
    #[must_use]
    pub fn of(what: &str) -> Self {
        Self { origin: "the recipe".into(), what: what.into() }
    }
}

impl RunSection {
    /// Samples per forward pass.
    #[must_use]
    pub fn part(&self) -> usize {
        self.micro_batch.unwrap_or(self.batch_size)
    }
}

impl Recipe {
    /// Reads a recipe; each of `changes` is `section.key=value` and wins. Relative paths are the current folder's.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown key, a value out of its range.
    pub fn read(path: &Path, changes: &[String]) -> Result<Self, RecipeError> {
        let origin = path.display().to_string();
        let error = |what: String| RecipeError { origin: origin.clone(), what };
        let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string()))?;
        for change in changes {
            set(&mut table, change)
                .map_err(|what| RecipeError { origin: format!("--set {change}"), what })?;
        }
        let recipe: Self = table.try_into().map_err(|e: toml::de::Error| error(e.to_string()))?;
        recipe.check().map_err(error)?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        let (o, run) = (&self.optimizer, &self.run);
        let positive = |name: &str, ok: bool, value: f64| match ok {
            true => Ok(()),
            false => Err(format!("`{name}` = {value} is out of its range")),
        };
        positive("optimizer.lr", o.lr > 0.0 && o.lr.is_finite(), o.lr)?;
        positive("optimizer.steps", o.steps > 0, o.steps as f64)?;
        positive("optimizer.final_ratio", (0.0..=1.0).contains(&o.final_ratio), o.final_ratio)?;
        for beta in o.betas {
            positive("optimizer.betas", (0.0..1.0).contains(&beta), beta)?;
        }
        positive("optimizer.epsilon", o.epsilon > 0.0 && o.epsilon.is_finite(), o.epsilon)?;
        positive(
            "optimizer.weight_decay",
            o.weight_decay >= 0.0 && o.weight_decay.is_finite(),
            o.weight_decay,
        )?;
        positive("optimizer.clip_norm", o.clip_norm >= 0.0 && o.clip_norm.is_finite(), o.clip_norm)?;
        positive("optimizer.layer_decay", o.layer_decay > 0.0 && o.layer_decay <= 1.0, o.layer_decay)?;
        positive("optimizer.ema_decay", (0.0..1.0).contains(&o.ema_decay), o.ema_decay)?;
        let w = &self.objective;
        positive("objective.contrastive", w.contrastive >= 0.0 && w.contrastive.is_finite(), w.contrastive)?;
        positive("objective.caption", w.caption >= 0.0 && w.caption.is_finite(), w.caption)?;
        positive("objective.label_smoothing", (0.0..1.0).contains(&w.label_smoothing), w.label_smoothing)?;
        if w.contrastive == 0.0 && w.caption == 0.0 {
            return Err("both weights of [objective] are 0: nothing would be learnt".into());
        }
        positive("run.batch_size", run.batch_size > 0, run.batch_size as f64)?;
        positive("run.micro_batch", run.micro_batch != Some(0), 0.0)?;
        positive("run.checkpoint_every", run.checkpoint_every > 0, 0.0)?;
        positive("run.validate_every", run.validate_every > 0, 0.0)?;
        positive("run.log_every", run.log_every > 0, 0.0)?;
        positive("data.shuffle_buffer", self.data.shuffle_buffer > 0, 0.0)?;
        positive("data.validation_samples", self.data.validation_samples > 0, 0.0)?;
        if run.out.to_string_lossy().contains("://") {
            return Err(format!(
                "`run.out` = {}: a folder of this machine is needed; copy it afterwards",
                run.out.display()
            ));
        }
        if self.data.train.is_empty() {
            return Err("`data.train` is empty: name at least one shard".into());
        }
        if run.patience > 0 && self.data.validation.is_empty() {
            return Err("`run.patience` needs `data.validation`: without it nothing can be judged".into());
        }
        if w.contrastive > 0.0 && run.batch_size < 2 {
            return Err("`objective.contrastive` needs a `run.batch_size` of at least 2".into());
        }
        if let Some(crop) = &self.data.crop
            && !crop.is_valid()
        {
            return Err(format!("`data.crop`: {:?} and {:?} are no ranges", crop.scale, crop.ratio));
        }
        self.freeze().map(drop)
    }

    /// Parts that do not learn.
    ///
    /// # Errors
    /// An unknown part.
    pub fn freeze(&self) -> Result<Vec<Freeze>, String> {
        let each = self.model.freeze.iter().map(|f| f.parse().map_err(|e| format!("model.freeze: {e}")));
        each.collect()
    }

    /// Weights of the losses.
    #[must_use]
    pub fn weights(&self) -> Weights {
        let ObjectiveSection { contrastive, caption, label_smoothing } = self.objective;
        Weights { contrastive, caption, label_smoothing }
    }

    /// Learning rate by step.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let o = &self.optimizer;
        Schedule { peak: o.lr, warmup_steps: o.warmup_steps, steps: o.steps, final_ratio: o.final_ratio }
    }

    /// Constants of AdamW.
    #[must_use]
    pub fn adamw(&self) -> AdamWSettings {
        let o = &self.optimizer;
        AdamWSettings {
            beta1: o.betas[0],
            beta2: o.betas[1],
            epsilon: o.epsilon,
            weight_decay: o.weight_decay,
        }
    }

    /// The same without secrets: user info and queries of URLs.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut recipe = self.clone();
        for url in recipe.data.train.iter_mut().chain(&mut recipe.data.validation) {
            *url = recaption_schemas::redact_url(url);
        }
        recipe
    }

    /// What a resumed run must have in common with the one that left the checkpoint: everything that changes weights.
    #[must_use]
    pub fn fingerprint(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self.redacted()).unwrap_or_default();
        for key in ["out", "device", "checkpoint_every", "log_every"] {
            value["run"].as_object_mut().map(|run| run.remove(key));
        }
        value["data"].as_object_mut().map(|data| data.remove("cache_bytes"));
        value["model"].as_object_mut().map(|model| model.remove("save_as"));
        value
    }
}

/// Puts `section.key=value` into a table; the value is TOML, or else a text.
fn set(table: &mut toml::Table, change: &str) -> Result<(), String> {
    let (place, value) = change.split_once('=').ok_or("expected section.key=value")?;
    let (section, key) = place.trim().split_once('.').ok_or("expected section.key=value")?;
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let section_table = table.entry(section.to_owned()).or_insert_with(|| toml::Table::new().into());
    let section_table = section_table.as_table_mut().ok_or_else(|| format!("`{section}` is no section"))?;
    section_table.insert(key.to_owned(), value);
    Ok(())
}
