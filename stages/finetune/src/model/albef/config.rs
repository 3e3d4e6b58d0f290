//! `config.json` of an ALBEF: the authors' `Pretrain.yaml` and `config_bert.json` in one file, under their keys.

use recaption_onnx::checkpoint::AlbefConfig as ExportedConfig;
use recaption_schemas::{Interpolation, Preprocess, ResizeMode};
use serde::{Deserialize, Serialize};

/// Sizes and options of an ALBEF. Defaults are the authors'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlbefConfig {
    /// Side of an image, pixels.
    pub image_res: usize,
    /// Side of a patch, pixels.
    #[serde(default = "authors::patch_size")]
    pub patch_size: usize,
    /// Width of the image encoder.
    #[serde(default = "authors::vision_width")]
    pub vision_width: usize,
    /// Number of blocks of the image encoder.
    #[serde(default = "authors::layers")]
    pub vision_depth: usize,
    /// Number of heads of the image encoder.
    #[serde(default = "authors::layers")]
    pub vision_heads: usize,
    /// Epsilon of the image encoder's LayerNorm.
    #[serde(default = "authors::vision_norm_eps")]
    pub vision_norm_eps: f64,
    /// Whether there is a LayerNorm before the image encoder's blocks, as in CLIP's; the authors' has none.
    #[serde(default, skip_serializing_if = "is_false")]
    pub vision_norm_pre: bool,
    /// Width of the shared embedding.
    #[serde(default = "authors::embed_dim")]
    pub embed_dim: usize,
    /// Number of features in each queue.
    #[serde(default = "authors::queue_size")]
    pub queue_size: usize,
    /// Decay of the momentum copy, [0, 1].
    #[serde(default = "authors::momentum")]
    pub momentum: f64,
    /// Share of the momentum copy's targets, [0, 1].
    #[serde(default = "authors::alpha")]
    pub alpha: f64,
    /// Initial temperature.
    #[serde(default = "authors::temp")]
    pub temp: f64,
    /// Probability that a token is masked, [0, 1].
    #[serde(default = "authors::mlm_probability")]
    pub mlm_probability: f64,
    /// Longest text, `[CLS]` included.
    #[serde(default = "authors::max_text_tokens")]
    pub max_text_tokens: usize,
    /// Text encoder and fusion.
    pub bert: BertConfig,
    /// Ids of special tokens.
    #[serde(default)]
    pub special_ids: AlbefSpecialIds,
    /// Mean of the pixels, RGB, of pixels in [0, 1].
    #[serde(default = "authors::mean")]
    pub mean: [f64; 3],
    /// Standard deviation of the pixels, RGB.
    #[serde(default = "authors::std")]
    pub std: [f64; 3],
}

/// BERT, whose last layers attend to the image too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BertConfig {
    /// Width of the tokens.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Number of layers, fusion included.
    pub num_hidden_layers: usize,
    /// Number of layers before fusion: the text encoder.
    pub fusion_layer: usize,
    /// Width of the image's tokens.
    pub encoder_width: usize,
    /// Number of ids.
    pub vocab_size: usize,
    /// Number of position embeddings.
    pub max_position_embeddings: usize,
    /// Epsilon of LayerNorm.
    pub layer_norm_eps: f64,
    /// Activation of the MLP; `gelu` alone is supported.
    pub hidden_act: String,
    /// Id of padding.
    #[serde(default)]
    pub pad_token_id: i64,
    /// Number of token types, of which the first is used.
    #[serde(default = "authors::type_vocab_size")]
    pub type_vocab_size: usize,
}

/// Ids of special tokens; the defaults are bert-base-uncased's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlbefSpecialIds {
    /// `[PAD]`
    pub pad: i64,
    /// `[CLS]`
    pub cls: i64,
    /// `[SEP]`
    pub sep: i64,
    /// `[MASK]`
    pub mask: i64,
}

impl Default for AlbefSpecialIds {
    fn default() -> Self {
        Self { pad: 0, cls: 101, sep: 102, mask: 103 }
    }
}

impl AlbefConfig {
    /// Parses `config.json`.
    ///
    /// # Errors
    /// Fails with a message that names the key on JSON that is malformed, lacks a key or contradicts itself, and on what an export
    /// refuses: every run ends with one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        config.check()?;
        ExportedConfig::parse(text, None)?;
        Ok(config)
    }

    /// Checks what training needs.
    fn check(&self) -> Result<(), String> {
        let b = &self.bert;
        let sizes = [
            ("image_res", self.image_res),
            ("patch_size", self.patch_size),
            ("queue_size", self.queue_size),
            ("bert.type_vocab_size", b.type_vocab_size),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("`{key}` is 0"));
        }
        if !self.image_res.is_multiple_of(self.patch_size) {
            return Err(format!(
                "`image_res` {} is no multiple of `patch_size` {}",
                self.image_res, self.patch_size
            ));
        }
        if b.fusion_layer == 0 || b.fusion_layer >= b.num_hidden_layers {
            let layers = b.num_hidden_layers;
            return Err(format!(
                "`bert.fusion_layer` {} is not from 1 to {layers} - 1, which leaves both parts a layer",
                b.fusion_layer
            ));
        }
        let mask = self.special_ids.mask;
        if !(0..b.vocab_size as i64).contains(&mask) {
            return Err(format!(
                "`special_ids.mask` is {mask}, expected an id below `bert.vocab_size` {}",
                b.vocab_size
            ));
        }
        if b.max_position_embeddings < 3 {
            return Err("`bert.max_position_embeddings` below 3 leaves no room for a word".into());
        }
        Ok(())
    }

    /// Returns the number of patches per side.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.image_res / self.patch_size
    }

    /// Returns how images are resized: both sides to `image_res`, as in the authors' evaluation.
    #[must_use]
    pub fn preprocess(&self) -> Preprocess {
        let size = u32::try_from(self.image_res).unwrap_or(u32::MAX);
        Preprocess { size, resize_mode: ResizeMode::Squash, interpolation: Interpolation::Bicubic }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The authors' values of keys that a file may leave out.
mod authors {
    pub(super) fn patch_size() -> usize {
        16
    }
    pub(super) fn vision_width() -> usize {
        768
    }
    pub(super) fn layers() -> usize {
        12
    }
    pub(super) fn vision_norm_eps() -> f64 {
        1e-6
    }
    pub(super) fn embed_dim() -> usize {
        256
    }
    pub(super) fn queue_size() -> usize {
        65_536
    }
    pub(super) fn momentum() -> f64 {
        0.995
    }
    pub(super) fn alpha() -> f64 {
        0.4
    }
    pub(super) fn temp() -> f64 {
        0.07
    }
    pub(super) fn mlm_probability() -> f64 {
        0.15
    }
    pub(super) fn max_text_tokens() -> usize {
        25
    }
    pub(super) fn type_vocab_size() -> usize {
        2
    }
    pub(super) fn mean() -> [f64; 3] {
        [0.481_454_66, 0.457_827_5, 0.408_210_73]
    }
    pub(super) fn std() -> [f64; 3] {
        [0.268_629_54, 0.261_302_58, 0.275_777_11]
    }
}
