//! The configuration of a model as the rest of the crate reads it.

use recaption_schemas::Preprocess;
use serde::{Deserialize, Serialize};

use super::tokens::TextTokens;
use crate::model::Architecture;

/// torch's default epsilon of LayerNorm.
pub(in crate::checkpoint) const DEFAULT_EPSILON: f32 = 1e-5;

/// Activation of the MLPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)`, with the exact erf.
    Gelu,
    /// GELU's approximation by a hyperbolic tangent, `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

/// Mean and standard deviation per channel, RGB, of pixels scaled to [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// Mean.
    pub mean: [f64; 3],
    /// Standard deviation, > 0.
    pub std: [f64; 3],
}

/// The attentional pooler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolerConfig {
    /// How queries become caption tokens and the image embedding.
    pub kind: PoolerKind,
    /// Queries of `attn_pool`: caption tokens, except for the first one of a [`PoolerKind::Released`].
    pub queries: usize,
    /// Attention heads, also of the contrastive pooler.
    pub heads: usize,
}

impl PoolerConfig {
    /// Returns the number of queries that yield caption tokens.
    #[must_use]
    pub fn caption_tokens(&self) -> usize {
        match self.kind {
            PoolerKind::Released => self.queries - 1,
            PoolerKind::Parallel | PoolerKind::Cascade => self.queries,
        }
    }
}

/// What the image embedding is made of, other than by a CoCa's poolers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePooling {
    /// The class token.
    ClassToken,
    /// The mean of the patches, without the class token (`pool_type = "avg"`): CLIPA.
    Mean {
        /// Whether `ln_post` comes before the mean (`final_ln_after_pool` = false).
        norm_first: bool,
    },
    /// What a learnt query attends to among all tokens, plus an MLP of it (MAP, `timm_pool = "map"`): SigLIP and Perception Encoders.
    Attention {
        /// Heads.
        heads: usize,
        /// Width of the MLP.
        mlp_width: usize,
    },
}

/// The residual blocks of an image tower. `x` is a LayerNorm's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageBlocks {
    /// `x + attn(norm(x))`, `x + mlp(norm(x))`: CLIP's.
    PreNorm,
    /// The same, without a bias of the keys: EVA's.
    Eva,
    /// `x + norm(attn(x))`, `x + norm(mlp(x))`, without a bias of the keys: EVA-02's largest.
    PostNorm,
    /// EVA's, with a LayerNorm before the attention's output projection, and SwiGLU with a LayerNorm before its last matrix: EVA-02's.
    SubNorm,
}

impl ImageBlocks {
    /// Returns whether keys have a bias, so that those of queries, keys and values are packed in one tensor.
    #[must_use]
    pub fn has_key_bias(self) -> bool {
        self == Self::PreNorm
    }
}

/// Rotary positions of an image's patches: row and column turn pairs of the numbers of a query or key by angles (timm's
/// `RotaryEmbeddingCat`, interleaved). The class token is not turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryPositions {
    /// Patches per side of the grid that positions are scaled to (`ref_feat_shape`).
    pub grid: usize,
    /// What is added to row and column before that (`rope_grid_offset`).
    pub offset: f32,
    /// Whether the column's angles come before the row's (`rope_grid_indexing = "xy"`).
    pub is_column_first: bool,
}

/// How a tower's pooled token becomes the embedding. `visual.proj` is a text tower's `text_projection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingProjection {
    /// It is the embedding.
    None,
    /// By `visual.proj` `[W, E]`, without bias.
    Matrix,
    /// By `visual.proj.weight` `[E, W]`, and a bias.
    Linear {
        /// Whether there is `visual.proj.bias` `[E]`.
        bias: bool,
    },
}

/// The image tower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VisionConfig {
    /// Side of the input, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Width of the tokens.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width of the MLP.
    pub mlp_width: usize,
    /// The pooler, or none (`coca_base`).
    pub pooler: Option<PoolerConfig>,
    /// Whether the first token is the class token.
    pub class_token: bool,
    /// Whether the patch embedding has a bias, `visual.conv1.bias`.
    pub patch_bias: bool,
    /// Whether `ln_pre` exists.
    pub ln_pre: bool,
    /// The residual blocks.
    pub blocks: ImageBlocks,
    /// Rotary positions in all of them, beside those that are added to the tokens.
    pub rotary: Option<RotaryPositions>,
    /// Initial value of LayerScale's factors (`ls_init_value`), if the blocks have LayerScale.
    pub layer_scale: Option<f32>,
    /// What the embedding is made of, where there is no `pooler`.
    pub pooling: ImagePooling,
    /// How it becomes the embedding.
    pub projection: EmbeddingProjection,
    /// Activation of the MLPs.
    pub activation: Activation,
    /// Epsilon of LayerNorm.
    pub epsilon: f32,
    /// Whether the tower is timm's, whose tensors have names of their own in a file.
    pub is_timm: bool,
}

impl VisionConfig {
    /// Returns the number of tokens: patches and the class token, if there is one.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid() + usize::from(self.class_token)
    }

    /// Returns the number of patches per side; a remainder of pixels is ignored, as in the convolution.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// Which token's output is the text embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPooling {
    /// A learnt token after the context (`embed_cls`): CoCa.
    ClassToken,
    /// The end token, the largest id of a text (`pool_type = "argmax"`): CLIP.
    EndToken,
    /// The first token with this id (`pool_type = "eos"`): MetaCLIP's multilingual models.
    FirstOf(i64),
    /// The last token of the context, which may be padding (`pool_type = "last"`): SigLIP, CLIPA.
    Last,
}

/// The unimodal text tower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextConfig {
    /// Longest text, ids with start and end.
    pub context_length: usize,
    /// Vocabulary.
    pub vocab_size: usize,
    /// Width of the tokens.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Width of the MLP.
    pub mlp_width: usize,
    /// Initial value of LayerScale's factors (`ls_init_value`), if the blocks have LayerScale.
    pub layer_scale: Option<f32>,
    /// Which token's output is the embedding.
    pub pooling: TextPooling,
    /// Whether tokens attend to those before them only; else to all, padding too (`no_causal_mask`).
    pub is_causal: bool,
    /// How it becomes the embedding.
    pub projection: EmbeddingProjection,
    /// Activation of the MLPs.
    pub activation: Activation,
    /// Epsilon of LayerNorm.
    pub epsilon: f32,
    /// How a text becomes ids.
    pub tokens: TextTokens,
    /// Prefix of its tensors' names: `text.`, or empty in a CLIP without `custom_text`.
    pub prefix: &'static str,
}

impl TextConfig {
    /// Returns whether the embedding depends on how far a text is padded, so that every text is padded to the context's length.
    #[must_use]
    pub fn reads_padding(&self) -> bool {
        match self.pooling {
            TextPooling::ClassToken => false,
            TextPooling::EndToken | TextPooling::FirstOf(_) => !self.is_causal,
            TextPooling::Last => true,
        }
    }
}

/// The multimodal decoder: as many self-attention blocks as cross-attention blocks. Its MLP is always 4 times as wide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Width of the tokens; the text tower's and the caption tokens' width too.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Pairs of blocks.
    pub layers: usize,
    /// Longest text, ids with start and end.
    pub context_length: usize,
    /// What the decoder reads of the text.
    pub input: MultimodalInput,
    /// Initial value of LayerScale's factors (`ls_init_value`), if the blocks have LayerScale.
    pub layer_scale: Option<f32>,
}

/// A CoCa or a CLIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelConfig {
    /// Width of the shared embedding.
    pub embed_dim: usize,
    /// Image tower.
    pub vision: VisionConfig,
    /// Text tower.
    pub text: TextConfig,
    /// Multimodal decoder; `None` for a CLIP.
    pub decoder: Option<DecoderConfig>,
    /// Activation of the decoder, and of both towers unless they set another.
    pub activation: Activation,
    /// Initial value of `logit_scale`, a natural logarithm; used in training only.
    pub init_logit_scale: f32,
    /// Initial value of `logit_bias`, if the model has one; used in training only.
    pub init_logit_bias: Option<f32>,
    /// How images are resized.
    pub preprocess: Preprocess,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
}

/// How the image's tokens become the caption tokens and the image embedding. All poolers normalise queries and keys; `E` is
/// the shared width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolerKind {
    /// One pooler, as in the released weights: its first query yields the embedding, the others caption tokens.
    #[default]
    Released,
    /// All queries of `attn_pool` yield caption tokens. `attn_pool_contrastive`, with one query, attends to the same tokens of
    /// the image tower.
    Parallel,
    /// Like [`PoolerKind::Parallel`], but `attn_pool_contrastive` attends to `attn_pool`'s output `[queries, E]`, before any
    /// `ln_post`.
    Cascade,
}

/// What the multimodal decoder reads of a text, `[T, W]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MultimodalInput {
    /// The text tower's output tokens, not normalised, as in the paper and in every released checkpoint.
    #[default]
    Unimodal,
    /// Token plus position embeddings, like the text tower itself.
    Embeddings,
}

pub(super) const POOLERS: [(&str, PoolerKind); 3] = [
    ("released", PoolerKind::Released),
    ("parallel", PoolerKind::Parallel),
    ("cascade", PoolerKind::Cascade),
];
pub(super) const INPUTS: [(&str, MultimodalInput); 2] =
    [("unimodal", MultimodalInput::Unimodal), ("embeddings", MultimodalInput::Embeddings)];

impl PoolerKind {
    /// Returns the name in `recaption.pooler`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        name_of(&POOLERS, self)
    }
}

impl MultimodalInput {
    /// Returns the name in `recaption.multimodal_input`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        name_of(&INPUTS, self)
    }
}

fn name_of<T: Copy + PartialEq>(names: &[(&'static str, T)], wanted: T) -> &'static str {
    names.iter().find(|(_, value)| *value == wanted).map_or("", |(name, _)| name)
}

impl ModelConfig {
    /// Returns what kind of a model it is.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        match (&self.decoder, self.vision.pooling, self.init_logit_bias) {
            (Some(_), ..) => Architecture::Coca,
            // The bias of its sigmoid.
            (None, ImagePooling::Attention { .. }, Some(_)) => Architecture::Siglip,
            (None, ..) => Architecture::Clip,
        }
    }

    /// Returns the number of tokens that the decoder cross-attends to.
    #[must_use]
    pub fn image_tokens(&self) -> usize {
        match self.vision.pooler {
            Some(pooler) => pooler.caption_tokens(),
            None => self.vision.grid() * self.vision.grid(),
        }
    }

    /// Returns the number of text tower layers that the decoder's graph runs: none if it reads embeddings.
    #[must_use]
    pub fn decoding_text_layers(&self) -> usize {
        match self.decoder.map(|d| d.input) {
            Some(MultimodalInput::Unimodal) => self.text.layers,
            Some(MultimodalInput::Embeddings) | None => 0,
        }
    }
}
