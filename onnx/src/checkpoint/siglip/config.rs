//! `config.json` of a SigLIP, as open_clip's configuration. Defaults are transformers' (`configuration_siglip.py`).

use serde_json::{Map, Value};

use crate::{
    checkpoint::{
        blip::preprocess,
        config::{
            Activation, EmbeddingProjection, INIT_LOGIT_SCALE, ImageBlocks, ImagePooling, ModelConfig,
            Normalisation, TextConfig, TextPooling, TextTokens, TokenizerFamily, VisionConfig,
            section::{Parsed, Section},
        },
    },
    model::TextCleaning,
};

/// The class that has both towers.
const CLASS: &str = "SiglipModel";
/// Mean and standard deviation of SigLIP's pixels, per channel.
const HALF: [f64; 3] = [0.5; 3];
/// Size of Gemma's vocabulary, which tells SigLIP 2 where there is no tokenizer.
const GEMMA_ENTRIES: usize = 256_000;
/// Initial value of SigLIP's `logit_bias`; used in training only.
const INIT_LOGIT_BIAS: f32 = -10.0;

/// Parses the text of `config.json`, and the image processor's settings where there are any.
pub(super) fn parse(
    text: &str,
    processor: Option<&Map<String, Value>>,
    family: Option<TokenizerFamily>,
) -> Parsed<ModelConfig> {
    let root: Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}"))?;
    let Value::Object(root) = root else { return Err("expected a JSON object".into()) };
    check_kind(&root)?;
    let empty = Map::new();
    let vision = parse_vision(&section(&root, "vision_config", &empty)?)?;
    let (text, embed_dim) = parse_text(&section(&root, "text_config", &empty)?, family)?;
    if embed_dim != vision.width {
        return Err(format!(
            "`text_config.projection_size` is {embed_dim}, but `vision_config.hidden_size` is {}: the embeddings cannot be compared",
            vision.width
        ));
    }
    let default = Normalisation { mean: HALF, std: HALF };
    let (preprocess, normalisation) = preprocess::parse(processor, vision.image_size, default)?;
    let config = ModelConfig {
        embed_dim,
        vision,
        text,
        decoder: None,
        activation: text.activation,
        init_logit_scale: INIT_LOGIT_SCALE,
        init_logit_bias: Some(INIT_LOGIT_BIAS),
        preprocess,
        normalisation,
    };
    config.check()?;
    Ok(config)
}

/// Checks that the file describes both towers of a SigLIP for images of one size.
fn check_kind(root: &Map<String, Value>) -> Parsed<()> {
    let kind = root.get("model_type").and_then(Value::as_str).unwrap_or("missing");
    if kind == "siglip2" {
        return Err(
            "`model_type` is siglip2, a NaFlex model, which takes images of any shape: graphs here take squares of one size. The \
             SigLIP 2 of one size, such as siglip2-base-patch16-256, are supported"
                .into(),
        );
    }
    if kind != "siglip" {
        return Err(format!("`model_type` is {kind}, expected siglip"));
    }
    let classes = root.get("architectures").and_then(Value::as_array);
    let Some(classes) = classes.filter(|classes| !classes.is_empty()) else { return Ok(()) };
    if classes.iter().any(|class| class.as_str() == Some(CLASS)) {
        return Ok(());
    }
    let classes: Vec<String> = classes.iter().map(Value::to_string).collect();
    Err(format!("`architectures` is {}, of SigLIP's only {CLASS} is supported", classes.join(", ")))
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

fn parse_vision(s: &Section<'_>) -> Parsed<VisionConfig> {
    s.require(&[("num_channels", vec![3.into()]), ("vision_use_head", vec![true.into()])])?;
    let (width, heads) = width_and_heads(s, "vision_config")?;
    let mlp_width = s.size("intermediate_size", Some(3072))?;
    Ok(VisionConfig {
        image_size: s.square("image_size", 224)?,
        patch_size: s.square("patch_size", 16)?,
        width,
        layers: s.size("num_hidden_layers", Some(12))?,
        heads,
        mlp_width,
        pooler: None,
        class_token: false,
        patch_bias: true,
        ln_pre: false,
        blocks: ImageBlocks::PreNorm,
        rotary: None,
        layer_scale: None,
        pooling: ImagePooling::Attention { heads, mlp_width },
        projection: EmbeddingProjection::None,
        activation: activation(s)?,
        epsilon: epsilon(s)?,
        is_timm: false,
    })
}

/// Parses the text tower; returns it and the width of its embedding.
fn parse_text(s: &Section<'_>, family: Option<TokenizerFamily>) -> Parsed<(TextConfig, usize)> {
    let (width, heads) = width_and_heads(s, "text_config")?;
    let vocab_size = s.size("vocab_size", Some(32_000))?;
    let by_size = if vocab_size == GEMMA_ENTRIES { TokenizerFamily::Gemma } else { TokenizerFamily::Siglip };
    let family = family.unwrap_or(by_size);
    let cleaning = match family {
        TokenizerFamily::Gemma => TextCleaning::Lowercase,
        _ => TextCleaning::Siglip,
    };
    let config = TextConfig {
        context_length: s.size("max_position_embeddings", Some(64))?,
        vocab_size,
        width,
        heads,
        layers: s.size("num_hidden_layers", Some(12))?,
        mlp_width: s.size("intermediate_size", Some(3072))?,
        layer_scale: None,
        pooling: TextPooling::Last,
        is_causal: false,
        projection: EmbeddingProjection::Linear { bias: true },
        activation: activation(s)?,
        epsilon: epsilon(s)?,
        tokens: TextTokens { family, cleaning, strips_end: false },
        prefix: "text.",
    };
    Ok((config, s.size("projection_size", Some(width))?))
}

fn width_and_heads(s: &Section<'_>, name: &str) -> Parsed<(usize, usize)> {
    let (width, heads) = (s.size("hidden_size", Some(768))?, s.size("num_attention_heads", Some(12))?);
    if width.is_multiple_of(heads) {
        return Ok((width, heads));
    }
    Err(format!("`{name}.hidden_size` {width} is not divisible by {heads} heads"))
}

fn activation(s: &Section<'_>) -> Parsed<Activation> {
    match s.get("hidden_act").map(|v| (v, v.as_str())) {
        None | Some((_, Some("gelu_pytorch_tanh"))) => Ok(Activation::GeluTanh),
        Some((_, Some("gelu"))) => Ok(Activation::Gelu),
        Some((_, Some("quick_gelu"))) => Ok(Activation::QuickGelu),
        Some((v, _)) => Err(s.unsupported("hidden_act", v, "gelu_pytorch_tanh, gelu or quick_gelu")),
    }
}

/// Returns `layer_norm_eps`, which must be positive.
fn epsilon(s: &Section<'_>) -> Parsed<f32> {
    let value = s.optional_f32("layer_norm_eps")?.unwrap_or(1e-6);
    if value > 0.0 {
        return Ok(value);
    }
    Err(s.unsupported("layer_norm_eps", &f64::from(value).into(), "a positive number"))
}
