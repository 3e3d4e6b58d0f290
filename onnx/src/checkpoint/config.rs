//! `open_clip_config.json`, parsed strictly: a CoCa when it has a `multimodal_cfg`, a CLIP when it has none.
//!
//! Every key of open_clip 3.3.0's `CLIPVisionCfg`, `CLIPTextCfg` and `MultimodalCfg` is known here: those that change
//! the graph are read, those that do not are skipped, and every other one must have its default value. A key that
//! nobody knows is an error too: it may change the graph.

mod section;

use recaption_schemas::{Interpolation, Preprocess, ResizeMode};
use section::Section;
use serde_json::{Map, Value};

/// OpenAI's mean per channel, RGB, on a scale of 0 to 1 (open_clip's `OPENAI_DATASET_MEAN`).
const OPENAI_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// OpenAI's standard deviation per channel, RGB.
const OPENAI_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Activation of the MLPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * Phi(x), with the exact erf.
    Gelu,
    /// x * sigmoid(1.702 x).
    QuickGelu,
}

/// Mean and standard deviation per channel, RGB, of pixels scaled to [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Mean.
    pub mean: [f64; 3],
    /// Standard deviation, > 0.
    pub std: [f64; 3],
}

/// The attentional pooler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolerConfig {
    /// Queries: the first is the contrastive embedding, the rest are caption tokens.
    pub queries: usize,
    /// Attention heads.
    pub heads: usize,
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
    /// Whether `ln_pre` exists.
    pub ln_pre: bool,
    /// LayerScale.
    pub layer_scale: bool,
}

impl VisionConfig {
    /// Patches per side; a remainder of pixels is ignored, as the convolution does.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// Which token's output is the text embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPooling {
    /// A learnt token behind the context (`embed_cls`): CoCa.
    ClassToken,
    /// The end token, the largest id of a text (`pool_type = "argmax"`): CLIP.
    EndToken,
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
    /// LayerScale.
    pub layer_scale: bool,
    /// Where the embedding comes from.
    pub pooling: TextPooling,
    /// What its tensors' names begin with: `text.`, or nothing in a CLIP without `custom_text`.
    pub prefix: &'static str,
}

/// The multimodal decoder: as many self-attention blocks as cross-attention blocks. Its MLP is always 4 times wider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderConfig {
    /// Width of the tokens; the text tower's and the caption tokens' width too.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Pairs of blocks.
    pub layers: usize,
    /// Longest text it takes.
    pub context_length: usize,
    /// LayerScale.
    pub layer_scale: bool,
}

/// A whole CoCa, or a CLIP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelConfig {
    /// Width of the shared embedding.
    pub embed_dim: usize,
    /// Image tower.
    pub vision: VisionConfig,
    /// Text tower.
    pub text: TextConfig,
    /// Multimodal decoder; a CLIP has none.
    pub decoder: Option<DecoderConfig>,
    /// Activation of all towers.
    pub activation: Activation,
    /// Resizing.
    pub preprocess: Preprocess,
    /// Normalisation.
    pub normalisation: Normalisation,
}

type Parsed<T> = Result<T, String>;

/// Keys that may only have their default value, with it.
fn custom_block_defaults() -> Vec<(&'static str, Vec<Value>)> {
    let off = || vec![Value::Bool(false)];
    vec![
        ("block_type", vec![Value::Null, "default".into()]),
        ("qk_norm", off()),
        ("scaled_cosine_attn", off()),
        ("scale_heads", off()),
        ("scale_attn_inner", off()),
        ("scale_attn", off()),
        ("scale_fc", off()),
        ("act_kwargs", vec![Value::Null]),
        ("norm_kwargs", vec![Value::Null]),
    ]
}

impl ModelConfig {
    /// Parses the file's text.
    ///
    /// # Errors
    /// A sentence naming the key that is missing, malformed, unknown or outside the supported set.
    pub fn parse(text: &str) -> Parsed<Self> {
        let root: Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}"))?;
        let Value::Object(root) = root else { return Err("expected a JSON object".into()) };
        for key in root.keys() {
            if !["model_cfg", "preprocess_cfg"].contains(&key.as_str()) {
                return Err(match key.as_str() {
                    "embed_dim" => "this is a bare model configuration; expected `model_cfg` around it, as on the Hugging Face hub".into(),
                    "recaption" => "`recaption`: poolers and wirings of our own are not supported yet".into(),
                    _ => format!("unknown key `{key}` beside `model_cfg` and `preprocess_cfg`"),
                });
            }
        }
        let model = Section::of(&root, "model_cfg")?;
        let has_decoder = model.map.get("multimodal_cfg").is_some_and(|v| !v.is_null());
        let activation =
            if model.flag("quick_gelu", false)? { Activation::QuickGelu } else { Activation::Gelu };
        let embed_dim = model.size("embed_dim", None)?;
        model.defaults(&[("pad_id", vec![0.into()]), ("nonscalar_logit_scale", vec![false.into()])])?;
        model.skip(&["custom_text", "init_logit_scale", "init_logit_bias", "cast_dtype"]);
        model.skip(&["vision_cfg", "text_cfg", "multimodal_cfg"]);
        let vision = parse_vision(Section::of(model.map, "vision_cfg")?, has_decoder)?;
        let text = parse_text(Section::of(model.map, "text_cfg")?, has_decoder)?;
        let decoder = if has_decoder {
            Some(parse_decoder(Section::of(model.map, "multimodal_cfg")?, text.context_length)?)
        } else {
            None
        };
        model.finish()?;
        let (preprocess, normalisation) = parse_preprocess(&root, vision.image_size)?;
        let config = Self { embed_dim, vision, text, decoder, activation, preprocess, normalisation };
        config.check()?;
        Ok(config)
    }

    /// Contradictions between sections that no single one shows.
    fn check(&self) -> Parsed<()> {
        check_heads("vision_cfg", self.vision.width, self.vision.heads)?;
        check_heads("text_cfg", self.text.width, self.text.heads)?;
        if let Some(decoder) = &self.decoder {
            self.check_decoder(decoder)?;
        }
        if self.vision.grid() == 0 {
            return Err("vision_cfg.patch_size is larger than image_size".into());
        }
        if self.text.vocab_size < 4 || self.text.context_length < 3 {
            return Err(
                "text_cfg: vocab_size below 4 or context_length below 3 leaves no room for a caption".into(),
            );
        }
        Ok(())
    }

    fn check_decoder(&self, decoder: &DecoderConfig) -> Parsed<()> {
        check_heads("multimodal_cfg", decoder.width, decoder.heads)?;
        if self.text.width != decoder.width {
            return Err(format!(
                "text_cfg.width {} differs from multimodal_cfg.width {}: the decoder reads the text tower's tokens",
                self.text.width, decoder.width
            ));
        }
        let tokens = match self.vision.pooler {
            Some(pooler) => {
                check_heads("vision_cfg (pooler)", self.embed_dim, pooler.heads)?;
                if pooler.queries < 2 {
                    return Err(
                        "vision_cfg.attn_pooler_queries must be at least 2: one embedding, one caption token"
                            .into(),
                    );
                }
                self.embed_dim
            }
            None => self.vision.width,
        };
        if tokens != decoder.width {
            return Err(format!(
                "image tokens are {tokens} wide, multimodal_cfg.width is {}: the decoder cannot attend to them",
                decoder.width
            ));
        }
        Ok(())
    }

    /// Tokens that the decoder cross-attends to.
    #[must_use]
    pub fn image_tokens(&self) -> usize {
        match self.vision.pooler {
            Some(pooler) => pooler.queries - 1,
            None => self.vision.grid() * self.vision.grid(),
        }
    }
}

fn check_heads(what: &str, width: usize, heads: usize) -> Parsed<()> {
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!("{what}: width {width} is not divisible by {heads} heads"));
    }
    Ok(())
}

/// Vision keys that act in training only, or only with `timm_model_name`.
const VISION_SKIP: &[&str] = &[
    "patch_dropout",
    "output_tokens",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
];

fn parse_vision(s: Section<'_>, has_decoder: bool) -> Parsed<VisionConfig> {
    s.skip(VISION_SKIP);
    s.defaults(&custom_block_defaults())?;
    s.defaults(&[
        ("timm_model_name", vec!["".into()]),
        ("pos_embed_type", vec!["learnable".into(), "sin_cos_2d".into()]),
        ("pool_type", vec!["tok".into()]),
        ("final_ln_after_pool", vec![false.into()]),
    ])?;
    if let Some(v @ Value::Array(_)) = s.get("layers") {
        return Err(s.bad("layers", v, "a whole number (a list means a ResNet)"));
    }
    let width = s.size("width", Some(768))?;
    let head_width = s.size("head_width", Some(64))?;
    let pooler = match s.get("attentional_pool") {
        None | Some(Value::Bool(false)) => {
            s.skip(&["attn_pooler_queries", "attn_pooler_heads"]);
            None
        }
        Some(v @ Value::Bool(true)) if !has_decoder => {
            return Err(s.bad("attentional_pool", v, "false (in a CLIP; poolers are CoCa's)"));
        }
        Some(Value::Bool(true)) => Some(PoolerConfig {
            queries: s.size("attn_pooler_queries", Some(256))?,
            heads: s.size("attn_pooler_heads", Some(8))?,
        }),
        Some(v) => {
            return Err(s.bad(
                "attentional_pool",
                v,
                "true or false (string-valued poolers are unfinished in open_clip)",
            ));
        }
    };
    let config = VisionConfig {
        image_size: s.square("image_size", 224)?,
        patch_size: s.square("patch_size", 16)?,
        width,
        layers: s.size("layers", Some(12))?,
        heads: width / head_width,
        mlp_width: s.mlp_width(width)?,
        pooler,
        ln_pre: !s.flag("no_ln_pre", false)?,
        layer_scale: s.layer_scale()?,
    };
    s.finish()?;
    Ok(config)
}

fn parse_text(s: Section<'_>, has_decoder: bool) -> Parsed<TextConfig> {
    if let Some(v) = s.get("hf_model_name") {
        return Err(s.bad(
            "hf_model_name",
            v,
            "none (text towers from Hugging Face transformers have other graphs)",
        ));
    }
    s.defaults(&custom_block_defaults())?;
    s.defaults(&[
        ("pad_id", vec![0.into()]),
        ("no_causal_mask", vec![false.into()]),
        ("final_ln_after_pool", vec![false.into()]),
        ("proj_bias", vec![false.into()]),
        ("proj_type", vec!["linear".into()]),
    ])?;
    s.skip(&["hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "output_tokens"]);
    let pooling = if has_decoder { coca_pooling(&s)? } else { clip_pooling(&s)? };
    let width = s.size("width", Some(512))?;
    let config = TextConfig {
        context_length: s.size("context_length", Some(77))?,
        vocab_size: s.size("vocab_size", Some(49408))?,
        width,
        heads: s.size("heads", Some(8))?,
        layers: s.size("layers", Some(12))?,
        mlp_width: s.mlp_width(width)?,
        layer_scale: s.layer_scale()?,
        pooling,
        prefix: "text.",
    };
    s.finish()?;
    Ok(config)
}

fn coca_pooling(s: &Section<'_>) -> Parsed<TextPooling> {
    s.skip(&["hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"]);
    // With a CLS embedding, pool_type and eos_id are not looked at.
    s.skip(&["eos_id", "pool_type"]);
    if !s.flag("embed_cls", false)? {
        return Err("`text_cfg.embed_cls` must be true: a CoCa's text embedding is its CLS token".into());
    }
    Ok(TextPooling::ClassToken)
}

fn clip_pooling(s: &Section<'_>) -> Parsed<TextPooling> {
    // Other tokenizers and cleanings give other ids, and nothing would say so afterwards.
    s.defaults(&[
        ("hf_tokenizer_name", vec![Value::Null]),
        ("tokenizer_mode", vec![Value::Null]),
        ("tokenizer_kwargs", vec![Value::Null, Value::Object(Map::new())]),
        ("embed_cls", vec![false.into()]),
        ("pool_type", vec!["argmax".into()]),
    ])?;
    s.skip(&["eos_id"]);
    Ok(TextPooling::EndToken)
}

fn parse_decoder(s: Section<'_>, text_context: usize) -> Parsed<DecoderConfig> {
    s.defaults(&custom_block_defaults())?;
    // open_clip reads none of these for the decoder: `mlp_ratio` is always 4, `vocab_size` is the text tower's.
    s.skip(&[
        "mlp_ratio",
        "vocab_size",
        "dim_head",
        "n_queries",
        "attn_pooler_heads",
        "embed_cls",
        "pad_id",
        "eos_id",
    ]);
    s.skip(&[
        "output_tokens",
        "pool_type",
        "proj_type",
        "proj_bias",
        "no_causal_mask",
        "final_ln_after_pool",
    ]);
    s.skip(&[
        "hf_tokenizer_name",
        "tokenizer_mode",
        "tokenizer_kwargs",
        "hf_model_pretrained",
        "hf_proj_type",
    ]);
    s.skip(&["hf_pooler_type"]);
    s.defaults(&[("hf_model_name", vec![])])?;
    let context_length = s.size("context_length", Some(77))?;
    if context_length < text_context - 1 {
        return Err(format!(
            "multimodal_cfg.context_length {context_length} is below text_cfg.context_length {text_context} - 1: teacher forcing would not fit"
        ));
    }
    let config = DecoderConfig {
        width: s.size("width", Some(512))?,
        heads: s.size("heads", Some(8))?,
        layers: s.size("layers", Some(12))?,
        context_length,
        layer_scale: s.layer_scale()?,
    };
    s.finish()?;
    Ok(config)
}

fn parse_preprocess(root: &Map<String, Value>, image_size: usize) -> Parsed<(Preprocess, Normalisation)> {
    let empty = Map::new();
    let s = match root.get("preprocess_cfg") {
        None | Some(Value::Null) => Section::new("preprocess_cfg", &empty),
        Some(_) => Section::of(root, "preprocess_cfg")?,
    };
    s.defaults(&[("mode", vec!["RGB".into()])])?;
    let size = s.square("size", image_size)?;
    if size != image_size {
        return Err(format!("preprocess_cfg.size {size} differs from vision_cfg.image_size {image_size}"));
    }
    let fill = match s.get("fill_color") {
        None => 0,
        Some(v) => {
            v.as_u64().and_then(|n| u8::try_from(n).ok()).ok_or_else(|| s.bad("fill_color", v, "0 to 255"))?
        }
    };
    let resize_mode = match s.get("resize_mode").map(|v| (v, v.as_str())) {
        None | Some((_, Some("shortest"))) => ResizeMode::Shortest,
        Some((_, Some("longest"))) => ResizeMode::Longest { fill: [fill; 3] },
        Some((_, Some("squash"))) => ResizeMode::Squash,
        Some((v, _)) => return Err(s.bad("resize_mode", v, "shortest, longest or squash")),
    };
    let interpolation = match s.get("interpolation").map(|v| (v, v.as_str())) {
        None | Some((_, Some("bicubic"))) => Interpolation::Bicubic,
        Some((_, Some("bilinear"))) => Interpolation::Bilinear,
        Some((v, _)) => return Err(s.bad("interpolation", v, "bicubic or bilinear")),
    };
    let channels = |key: &'static str, default: [f64; 3]| -> Parsed<[f64; 3]> {
        let Some(v) = s.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f64>> = v.as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| s.bad(key, v, "three numbers"))
    };
    let normalisation =
        Normalisation { mean: channels("mean", OPENAI_MEAN)?, std: channels("std", OPENAI_STD)? };
    if normalisation.std.iter().any(|s| *s <= 0.0) {
        return Err("preprocess_cfg.std must be positive".into());
    }
    s.finish()?;
    let size = u32::try_from(size).map_err(|e| e.to_string())?;
    Ok((Preprocess { size, resize_mode, interpolation }, normalisation))
}

#[cfg(test)]
mod tests;
