//! `config.json` of a BLIP. Defaults are transformers' (`configuration_blip.py`).

use recaption_schemas::Preprocess;
use serde_json::{Map, Value};

use super::preprocess;
use crate::{
    checkpoint::config::{
        Normalisation,
        preprocess::{OPENAI_MEAN, OPENAI_STD},
        section::{Parsed, Section},
    },
    model::SpecialIds,
};

/// `model_type` of every BLIP.
pub(super) const MODEL_TYPE: &str = "blip";
/// How pixels are normalised where no file says it.
const OPENAI: Normalisation = Normalisation { mean: OPENAI_MEAN, std: OPENAI_STD };
/// The class that generates captions.
const CAPTIONER: &str = "BlipForConditionalGeneration";
/// The class that scores them.
const RETRIEVAL: &str = "BlipForImageTextRetrieval";
/// Width of BLIP base's and large's texts, whose published weights have 12 heads.
const PUBLISHED_TEXT_WIDTH: usize = 768;
/// transformers' default of the text's heads, which fits none of the published weights.
const DEFAULT_TEXT_HEADS: usize = 8;

/// The image encoder: a ViT whose tokens, class token included, are normed and then attended to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlipVisionConfig {
    /// Side of the input, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Width of the tokens.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width of the MLP.
    pub mlp_width: usize,
    /// Epsilon of LayerNorm.
    pub epsilon: f32,
    /// Whether there is a LayerNorm before the layers, which an ALBEF may have.
    pub norm_pre: bool,
}

impl BlipVisionConfig {
    /// Returns the number of patches.
    #[must_use]
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Returns the number of tokens: patches and the class token.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.patches() + 1
    }
}

/// The text decoder, or the text encoder: BERT with LayerNorm after each addition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlipTextConfig {
    /// Vocabulary, `[DEC]` and `[ENC]` included.
    pub vocab_size: usize,
    /// Width of the tokens.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width of the MLP.
    pub mlp_width: usize,
    /// Number of position embeddings.
    pub context_length: usize,
    /// Epsilon of LayerNorm.
    pub epsilon: f32,
    /// Padding, `[DEC]` and `[SEP]`.
    pub special: SpecialIds,
}

/// What a BLIP is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlipTask {
    /// Generating captions (`BlipForConditionalGeneration`).
    Captions,
    /// Scoring captions (`BlipForImageTextRetrieval`).
    Retrieval {
        /// Width of the shared embedding.
        embed_dim: usize,
    },
}

/// A BLIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlipConfig {
    /// What it is for.
    pub task: BlipTask,
    /// Image encoder.
    pub vision: BlipVisionConfig,
    /// Text decoder, or text encoder.
    pub text: BlipTextConfig,
    /// How images are resized.
    pub preprocess: Preprocess,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
}

impl BlipConfig {
    /// Parses the text of `config.json`, and the image processor's settings where there are any.
    ///
    /// # Errors
    /// A message naming the key that is malformed or unsupported.
    pub fn parse(text: &str, processor: Option<&Map<String, Value>>) -> Parsed<Self> {
        let root: Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}"))?;
        let Value::Object(root) = root else { return Err("expected a JSON object".into()) };
        let task = task(&root)?;
        let empty = Map::new();
        let vision = parse_vision(&section(&root, "vision_config", &empty)?)?;
        let text = parse_text(&section(&root, "text_config", &empty)?)?;
        let (preprocess, normalisation) = preprocess::parse(processor, vision.image_size, OPENAI)?;
        Ok(Self { task, vision, text, preprocess, normalisation })
    }

    /// Returns the width of the shared embedding, 0 of a captioner.
    #[must_use]
    pub fn embed_dim(&self) -> usize {
        match self.task {
            BlipTask::Captions => 0,
            BlipTask::Retrieval { embed_dim } => embed_dim,
        }
    }
}

/// Returns what the model is for, by its class.
fn task(root: &Map<String, Value>) -> Parsed<BlipTask> {
    let kind = root.get("model_type").and_then(Value::as_str).unwrap_or("missing");
    if kind != MODEL_TYPE {
        return Err(format!("`model_type` is {kind}, expected {MODEL_TYPE}"));
    }
    let classes = root.get("architectures").and_then(Value::as_array);
    let Some(classes) = classes.filter(|classes| !classes.is_empty()) else {
        return Ok(BlipTask::Captions);
    };
    let is = |wanted: &str| classes.iter().any(|class| class.as_str() == Some(wanted));
    if is(CAPTIONER) {
        return Ok(BlipTask::Captions);
    }
    if is(RETRIEVAL) {
        let embed_dim = Section::new("config", root).size("image_text_hidden_size", Some(256))?;
        return Ok(BlipTask::Retrieval { embed_dim });
    }
    let classes: Vec<String> = classes.iter().map(Value::to_string).collect();
    Err(format!(
        "`architectures` is {}, of BLIP's only {CAPTIONER} and {RETRIEVAL} are supported",
        classes.join(", ")
    ))
}

/// Returns an object of `root`; an absent one is empty, so that everything in it has its default.
fn section<'a>(
    root: &'a Map<String, Value>,
    name: &'static str,
    empty: &'a Map<String, Value>,
) -> Parsed<Section<'a>> {
    match root.get(name) {
        None | Some(Value::Null) => Ok(Section::new(name, empty)),
        Some(_) => Section::of(root, name),
    }
}

fn parse_vision(s: &Section<'_>) -> Parsed<BlipVisionConfig> {
    s.require(&[("hidden_act", vec!["gelu".into()]), ("num_channels", vec![3.into()])])?;
    let config = BlipVisionConfig {
        image_size: s.square("image_size", 384)?,
        patch_size: s.square("patch_size", 16)?,
        width: s.size("hidden_size", Some(768))?,
        layers: s.size("num_hidden_layers", Some(12))?,
        heads: s.size("num_attention_heads", Some(12))?,
        mlp_width: s.size("intermediate_size", Some(3072))?,
        epsilon: epsilon(s, 1e-5)?,
        norm_pre: false,
    };
    check_heads("vision_config", config.width, config.heads)?;
    if config.patches() == 0 {
        return Err("`vision_config.patch_size` is larger than `image_size`".into());
    }
    Ok(config)
}

fn parse_text(s: &Section<'_>) -> Parsed<BlipTextConfig> {
    s.require(&[
        ("hidden_act", vec!["gelu".into()]),
        // Whether there is cross-attention.
        ("is_decoder", vec![true.into()]),
        ("position_embedding_type", vec!["absolute".into()]),
    ])?;
    let vocab_size = s.size("vocab_size", Some(30524))?;
    let config = BlipTextConfig {
        vocab_size,
        width: s.size("hidden_size", Some(768))?,
        layers: s.size("num_hidden_layers", Some(12))?,
        heads: s.size("num_attention_heads", Some(DEFAULT_TEXT_HEADS))?,
        mlp_width: s.size("intermediate_size", Some(3072))?,
        context_length: s.size("max_position_embeddings", Some(512))?,
        epsilon: epsilon(s, 1e-12)?,
        // `eos_token_id` is not the end: transformers passes `sep_token_id` to its generation.
        special: SpecialIds {
            pad: id(s, "pad_token_id", 0, vocab_size)?,
            start: id(s, "bos_token_id", 30522, vocab_size)?,
            end: id(s, "sep_token_id", 102, vocab_size)?,
        },
    };
    check_heads("text_config", config.width, config.heads)?;
    let special = config.special;
    if special.start == special.end || special.pad == special.end {
        return Err(format!(
            "`text_config`: `bos_token_id` {}, `sep_token_id` {} and `pad_token_id` {} must differ",
            special.start, special.end, special.pad
        ));
    }
    if config.context_length < 3 {
        return Err("`text_config.max_position_embeddings` below 3 leaves no room for a caption".into());
    }
    if config.width == PUBLISHED_TEXT_WIDTH && config.heads == DEFAULT_TEXT_HEADS {
        tracing::warn!(
            "text_config.num_attention_heads is 8, or not set, which means 8 in transformers; the published BLIP weights have 12 heads, and with 8 their captions are wrong"
        );
    }
    Ok(config)
}

/// Returns `layer_norm_eps`, which must be positive.
fn epsilon(s: &Section<'_>, default: f32) -> Parsed<f32> {
    let value = s.optional_f32("layer_norm_eps")?.unwrap_or(default);
    if value > 0.0 {
        return Ok(value);
    }
    Err(s.unsupported("layer_norm_eps", &f64::from(value).into(), "a positive number"))
}

/// Returns an id of the vocabulary.
fn id(s: &Section<'_>, key: &'static str, default: usize, vocab_size: usize) -> Parsed<i64> {
    let id = match s.get(key) {
        None => Some(default as i64),
        Some(v) => v.as_i64(),
    };
    match id.filter(|id| (0..vocab_size as i64).contains(id)) {
        Some(id) => Ok(id),
        None => {
            let value = s.get(key).cloned().unwrap_or_else(|| default.into());
            Err(s.unsupported(key, &value, &format!("an id below the vocabulary's size, {vocab_size}")))
        }
    }
}

/// Checks that a width is divisible by a number of heads.
fn check_heads(what: &str, width: usize, heads: usize) -> Parsed<()> {
    if width.is_multiple_of(heads) {
        return Ok(());
    }
    Err(format!("`{what}.hidden_size` {width} is not divisible by {heads} heads"))
}
