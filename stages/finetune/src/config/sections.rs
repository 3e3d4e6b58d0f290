//! The sections of a recipe: every key once, with its range, its default and where that comes from.

use std::path::PathBuf;

use burn::tensor::DType;
use recaption_config::{TextList, section};
use serde::{Deserialize, Serialize};

use crate::data::{Caption, CropSettings, Format};

section! {
    /// `[model]`
    pub struct ModelSection {
        /// Directory in open_clip's format, or an ALBEF's: configuration, tokenizer and, unless `model.init` is `random`, weights.
        #[schemars(extend("x-required" = true))]
        pub checkpoint: PathBuf = PathBuf::new(),
        /// Where the weights come from.
        pub init: Initialisation = Initialisation::Checkpoint,
        /// Directory of a model in open_clip's format whose image tower an ALBEF with random weights begins with.
        #[schemars(extend("x-default" = "random weights"))]
        pub image_encoder: PathBuf = PathBuf::new(),
        /// Type of the saved weights; `source` keeps the type of each tensor.
        pub save_as: SaveAs = SaveAs::Source,
        /// Parts of a CoCa that are not trained: `image`, `pooler`, `text`, `decoder`, `temperature`, `image:6` (the first six blocks).
        pub freeze: TextList = TextList::default(),
    }
}

section! {
    /// `[data]`
    pub struct DataSection {
        /// Shards to train on: URLs, globs, `{000..099}` ranges, folders, as in `recaption run`.
        #[schemars(extend("x-required" = true))]
        pub train: TextList = TextList::default(),
        /// Held-out shards; without any there is no early stopping, and the weights of the last step are kept.
        pub validation: TextList = TextList::default(),
        /// `shards` for webdataset tars, `output` for outputs of `recaption run` that carry their images.
        pub format: Format = Format::Shards,
        /// Which text is learnt: the caption member of a shard or the synthetic caption of an output (`text`), the original
        /// caption of an output (`original`), a key of the sample's JSON (`json.KEY`), or both texts of an output's row, a sample
        /// each, where its matching probability (`itm`, `org_itm`) is high enough (`itm>=0.5`).
        #[schemars(with = "String", extend("x-expected" = "`text`, `original`, `json.KEY` or `itm>=0.5`"))]
        pub caption: Caption = Caption::Text,
        /// Samples that are shuffled together, across shards.
        #[schemars(range(min = 1), extend("x-unit" = "samples"))]
        pub shuffle_buffer: usize = 10_000,
        /// Samples of a batch that have similar texts, by their words: a batch is made of groups of so many of a shuffled window, so that
        /// it holds hard negatives; 1 groups nothing. Divides `run.batch_size`; best with a large `data.shuffle_buffer` that is a multiple
        /// of it.
        #[schemars(range(min = 1), extend("x-unit" = "samples"))]
        pub group_similar: usize = 1,
        /// Random resized crop: `scale`, the range of the area, and `ratio`, of width to height. Off by default, since a
        /// caption may describe what a crop removes.
        #[schemars(extend("x-default" = "off", "x-expected" = "a table such as { scale = [0.9, 1.0] }"))]
        pub crop: Option<CropSettings> = None,
        /// Largest number of held-out samples.
        #[schemars(range(min = 1), extend("x-unit" = "samples"))]
        pub validation_samples: usize = 2048,
        /// Decoded images that are cached between epochs.
        #[schemars(extend("x-unit" = "bytes"))]
        pub cache_bytes: usize = 2 << 30,
    }
}

section! {
    /// `[albef]`: read with `objective.kind = "albef"`; the defaults are the paper's (Li et al. 2021, section 3.5) and the authors'
    /// `Pretrain.yaml`.
    pub struct AlbefSection {
        /// Largest share of the momentum copy's targets; 0 is no distillation.
        #[schemars(range(min = 0.0, max = 1.0))]
        pub alpha: f64 = 0.4,
        /// Steps over which alpha rises from 0: the first epoch.
        #[schemars(extend("x-unit" = "steps", "x-default" = "a thirtieth of optimizer.steps, the first of the paper's 30 epochs"))]
        pub alpha_steps: Option<u64> = None,
        /// Decay of the momentum copy per step.
        #[schemars(range(min = 0.0, max = 1.0))]
        pub momentum: f64 = 0.995,
        /// Features in each queue, a multiple of `run.batch_size`.
        #[schemars(range(min = 1), extend("x-unit" = "samples"))]
        pub queue_size: usize = 65_536,
        /// Initial temperature of random weights; it is learnt, from 0.001 to 0.5.
        #[schemars(range(min = 0.001, max = 0.5))]
        pub temperature: f64 = 0.07,
        /// Peak learning rate of the temperature, no more than `optimizer.lr`. The parameter is the temperature itself and AdamW moves it
        /// by about this in every step: 1e-4, the paper's for everything, takes it from 0.07 to 0.01 in 700 steps.
        #[schemars(range(min = 0.0))]
        pub temperature_lr: f64 = 1e-4,
        /// Weight of the contrastive loss (ITC); those of ITM and MLM are 1, and so is this one in the authors' code. Its gradient may be
        /// several times the others', which then hardly move what they share with it.
        #[schemars(range(min = 0.0))]
        pub contrastive_weight: f64 = 1.0,
        /// Probability that a token is masked: 80 % become `[MASK]`, 10 % a random id, 10 % stay.
        #[schemars(range(min = 0.0, max = 1.0))]
        pub mlm_probability: f64 = 0.15,
        /// Longest text, `[CLS]` included; at most the model's positions. The authors' texts have no `[SEP]`.
        #[schemars(range(min = 2), extend("x-unit" = "tokens"))]
        pub max_tokens: usize = 25,
    }
}

section! {
    /// `[objective]`: the defaults are those of CoCa's pre-training (Yu et al. 2022, section 4.1).
    pub struct ObjectiveSection {
        /// What is trained: `coca` a captioner, by the weights below, `albef` a scorer, by `[albef]`.
        pub kind: ObjectiveKind = ObjectiveKind::Coca,
        /// Weight of the contrastive loss (lambda_con).
        #[schemars(range(min = 0.0))]
        pub contrastive: f64 = 1.0,
        /// Weight of the caption loss (lambda_cap).
        #[schemars(range(min = 0.0))]
        pub caption: f64 = 2.0,
        /// Label smoothing of the caption loss.
        #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
        pub label_smoothing: f64 = 0.0,
    }
}

section! {
    /// `[optimizer]`: AdamW with open_clip's betas for ViTs; warm-up and weight decay are the CoCa paper's for fine-tuning.
    pub struct OptimizerSection {
        /// Peak learning rate.
        #[schemars(extend("x-required" = true, "exclusiveMinimum" = 0.0))]
        pub lr: f64 = 0.0,
        /// Number of steps.
        #[schemars(range(min = 1), extend("x-required" = true, "x-unit" = "steps"))]
        pub steps: u64 = 0,
        /// Steps of linear warm-up, fewer than `optimizer.steps`.
        #[schemars(extend("x-unit" = "steps"))]
        pub warmup_steps: u64 = 1000,
        /// Fraction of the peak learning rate at the end of the cosine.
        #[schemars(range(min = 0.0, max = 1.0))]
        pub final_ratio: f64 = 0.0,
        /// Betas of AdamW.
        #[schemars(extend("x-expected" = "two numbers from 0 to 1, 1 excluded"))]
        pub betas: [f64; 2] = [0.9, 0.98],
        /// Epsilon of AdamW.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        pub epsilon: f64 = 1e-6,
        /// Weight decay, applied to matrices.
        #[schemars(range(min = 0.0))]
        pub weight_decay: f64 = 0.1,
        /// Largest norm of the gradient; 0 is off.
        #[schemars(range(min = 0.0))]
        pub clip_norm: f64 = 1.0,
        /// Factor on the learning rate for every block further from the end of its tower; 1 is off.
        #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
        pub layer_decay: f64 = 1.0,
        /// Decay of the moving average of the weights, which is validated and saved; 0 is off.
        #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
        pub ema_decay: f64 = 0.0,
    }
}

section! {
    /// `[run]`
    pub struct RunSection {
        /// Local folder of everything that the run writes.
        #[schemars(extend("x-required" = true, "x-flag" = "--out FOLDER"))]
        pub out: PathBuf = PathBuf::new(),
        /// Samples per step.
        #[schemars(range(min = 1), extend("x-required" = true, "x-unit" = "samples"))]
        pub batch_size: usize = 0,
        /// Samples per forward pass; fewer than `run.batch_size` accumulate gradients, of a CoCa over the negatives of the whole
        /// batch, of an ALBEF over those of the part and the queue, as the authors' processes do.
        #[schemars(range(min = 1), extend("x-unit" = "samples", "x-default" = "run.batch_size"))]
        pub micro_batch: Option<usize> = None,
        /// Seed of weights, orders, crops, masks and negatives.
        #[schemars(range(min = 0))]
        pub seed: u64 = 0,
        /// `cpu`, `cuda` or `cuda:N`; `auto` is `cuda` where this build and this machine have it, else `cpu`.
        pub device: String = "auto".to_owned(),
        /// Type of matrix products; parameters, optimizer, LayerNorm and losses are fp32. `auto` is bf16 on a GPU, else fp32.
        pub precision: Compute = Compute::Fp32,
        /// Steps between checkpoints.
        #[schemars(range(min = 1), extend("x-unit" = "steps"))]
        pub checkpoint_every: u64 = 500,
        /// Steps between validations.
        #[schemars(range(min = 1), extend("x-unit" = "steps"))]
        pub validate_every: u64 = 500,
        /// Validations without improvement before the run stops; 0 is never.
        #[schemars(range(min = 0))]
        pub patience: u64 = 0,
        /// Steps between lines of the log.
        #[schemars(range(min = 1), extend("x-unit" = "steps"))]
        pub log_every: u64 = 50,
    }
}

impl RunSection {
    /// Samples per forward pass.
    #[must_use]
    pub fn part(&self) -> usize {
        self.micro_batch.unwrap_or(self.batch_size)
    }
}

/// What is trained.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, recaption_config::derive::schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(crate = "recaption_config::derive::schemars")]
pub enum ObjectiveKind {
    /// A CoCa, by contrast and captions.
    Coca,
    /// An ALBEF, by contrast, matching and masked words.
    Albef,
}

/// Where weights come from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, recaption_config::derive::schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(crate = "recaption_config::derive::schemars")]
pub enum Initialisation {
    /// From the checkpoint.
    Checkpoint,
    /// Random, with open_clip's distributions.
    Random,
}

/// Type of saved weights.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, recaption_config::derive::schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(crate = "recaption_config::derive::schemars")]
pub enum SaveAs {
    /// Each tensor in its own type.
    Source,
    /// All in single precision.
    Fp32,
    /// All in half precision: half the size, the usual choice for publishing.
    Fp16,
}

/// Type of matrix products; parameters, optimizer, LayerNorm and losses are single.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, recaption_config::derive::schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(crate = "recaption_config::derive::schemars")]
pub enum Compute {
    /// bf16 on a GPU, else fp32. A recipe that was read holds one of these instead.
    Auto,
    /// Single precision.
    Fp32,
    /// bfloat16, on devices that have it.
    Bf16,
}

impl Compute {
    /// Returns the type of tensors; `auto` is resolved when a recipe is read.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::Fp32 | Self::Auto => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}
