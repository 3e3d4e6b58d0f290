//! `vision_cfg`, `text_cfg` and `multimodal_cfg`: the towers' sizes, and options that must have their default values.

use serde_json::{Value, json};

use super::{
    section::{Parsed, Section},
    tokens::{self, TextTokens},
    types::{
        Activation, DEFAULT_EPSILON, DecoderConfig, EmbeddingProjection, ImageBlocks, ImagePooling,
        MultimodalInput, PoolerConfig, PoolerKind, TextConfig, TextPooling, VisionConfig,
    },
};

/// Returns keys of custom blocks that must have their default values.
pub(super) fn custom_block_defaults() -> Vec<(&'static str, Vec<Value>)> {
    let off = || vec![Value::Bool(false)];
    vec![
        ("block_type", vec![Value::Null, "default".into()]),
        ("qk_norm", off()),
        ("scaled_cosine_attn", off()),
        ("scale_heads", off()),
        ("scale_attn_inner", off()),
        ("scale_attn", off()),
        ("scale_fc", off()),
    ]
}

/// Returns keys of norms and activations that must have their default values in a CoCa, whose decoder runs the text tower too.
fn plain_norms_and_activations() -> Vec<(&'static str, Vec<Value>)> {
    vec![("act_kwargs", vec![Value::Null]), ("norm_kwargs", vec![Value::Null])]
}

/// Parses `act_kwargs` and `norm_kwargs` of a CLIP's tower: activation and epsilon of LayerNorm.
fn norms_and_activations(s: &Section<'_>, activation: Activation) -> Parsed<(Activation, f32)> {
    let tower_activation = match s.get("act_kwargs") {
        None => activation,
        Some(v) => match v.as_object().filter(|_| activation == Activation::Gelu) {
            Some(map) if map.is_empty() || *v == json!({"approximate": "none"}) => activation,
            Some(_) if *v == json!({"approximate": "tanh"}) => Activation::GeluTanh,
            _ => {
                return Err(s.unsupported(
                    "act_kwargs",
                    v,
                    "{\"approximate\": \"tanh\"} without `quick_gelu`",
                ));
            }
        },
    };
    let epsilon = match s.get("norm_kwargs") {
        None => DEFAULT_EPSILON,
        Some(v) => {
            let map = v.as_object().filter(|map| map.keys().all(|key| key == "eps"));
            let epsilon =
                map.map(|map| map.get("eps").map_or(Some(f64::from(DEFAULT_EPSILON)), Value::as_f64));
            match epsilon.flatten().map(|eps| eps as f32).filter(|eps| *eps > 0.0 && eps.is_finite()) {
                Some(epsilon) => epsilon,
                None => return Err(s.unsupported("norm_kwargs", v, "{\"eps\": a positive number}")),
            }
        }
    };
    Ok((tower_activation, epsilon))
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
    "timm_model_kwargs",
];

/// Parses the pooler of a CoCa.
fn parse_pooler(s: &Section<'_>, has_decoder: bool) -> Parsed<Option<PoolerConfig>> {
    Ok(match s.get("attentional_pool") {
        None | Some(Value::Bool(false)) => {
            s.skip(&["attn_pooler_queries", "attn_pooler_heads"]);
            None
        }
        Some(v @ Value::Bool(true)) if !has_decoder => {
            return Err(s.unsupported("attentional_pool", v, "false (in a CLIP; poolers are CoCa's)"));
        }
        Some(Value::Bool(true)) => Some(PoolerConfig {
            kind: PoolerKind::Released,
            queries: s.size("attn_pooler_queries", Some(256))?,
            heads: s.size("attn_pooler_heads", Some(8))?,
        }),
        Some(v) => {
            return Err(s.unsupported(
                "attentional_pool",
                v,
                "true or false (string-valued poolers are unfinished in open_clip; set `recaption.pooler` instead)",
            ));
        }
    })
}

/// Parses `vision_cfg` of open_clip's own ViT.
pub(super) fn parse_vision(
    s: Section<'_>,
    has_decoder: bool,
    activation: Activation,
) -> Parsed<VisionConfig> {
    s.skip(VISION_SKIP);
    s.require(&custom_block_defaults())?;
    s.require(&[
        ("timm_model_name", vec!["".into()]),
        // Of towers for any number of patches.
        ("image_seq_len", vec![Value::Null]),
        ("pos_embed_type", vec!["learnable".into(), "sin_cos_2d".into()]),
    ])?;
    if has_decoder {
        s.require(&plain_norms_and_activations())?;
        s.require(&[("pool_type", vec!["tok".into()]), ("final_ln_after_pool", vec![false.into()])])?;
    }
    let (activation, epsilon) = norms_and_activations(&s, activation)?;
    let norm_first = !s.flag("final_ln_after_pool", false)?;
    let pooling = match s.get("pool_type").map(|v| (v, v.as_str())) {
        // A token is the same whether it is normed before or after it is taken.
        None | Some((_, Some("tok"))) => ImagePooling::ClassToken,
        Some((_, Some("avg"))) => ImagePooling::Mean { norm_first },
        Some((v, _)) => return Err(s.unsupported("pool_type", v, "tok or avg")),
    };
    if let Some(v @ Value::Array(_)) = s.get("layers") {
        return Err(s.unsupported("layers", v, "a whole number (a list means a ResNet)"));
    }
    let width = s.size("width", Some(768))?;
    let head_width = s.size("head_width", Some(64))?;
    let pooler = parse_pooler(&s, has_decoder)?;
    let config = VisionConfig {
        image_size: s.square("image_size", 224)?,
        patch_size: s.square("patch_size", 16)?,
        width,
        layers: s.size("layers", Some(12))?,
        heads: width / head_width,
        mlp_width: s.mlp_width(width)?,
        pooler,
        class_token: true,
        patch_bias: false,
        ln_pre: !s.flag("no_ln_pre", false)?,
        blocks: ImageBlocks::PreNorm,
        rotary: None,
        layer_scale: s.optional_f32("ls_init_value")?,
        pooling,
        projection: EmbeddingProjection::Matrix,
        activation,
        epsilon,
        is_timm: false,
    };
    s.finish()?;
    Ok(config)
}

/// Parses `text_cfg`.
pub(super) fn parse_text(s: Section<'_>, has_decoder: bool, activation: Activation) -> Parsed<TextConfig> {
    if let Some(v) = s.get("hf_model_name") {
        return Err(s.unsupported(
            "hf_model_name",
            v,
            "none (text towers from Hugging Face transformers have other graphs)",
        ));
    }
    s.require(&[("text_arch", vec!["clip".into()])])?;
    s.require(&custom_block_defaults())?;
    s.require(&[
        ("pad_id", vec![0.into()]),
        ("final_ln_after_pool", vec![false.into()]),
        ("proj_type", vec!["linear".into(), "none".into()]),
    ])?;
    s.require(&open_clip_4_defaults())?;
    s.skip(&["hf_model_pretrained", "hf_proj_type", "hf_pooler_type", "hf_model_config", "output_tokens"]);
    s.skip(MODERN_SKIP);
    let (pooling, tokens) = if has_decoder { coca_pooling(&s)? } else { clip_pooling(&s)? };
    let (activation, epsilon) = norms_and_activations(&s, activation)?;
    let width = s.size("width", Some(512))?;
    let config = TextConfig {
        context_length: s.size("context_length", Some(77))?,
        vocab_size: s.size("vocab_size", Some(49408))?,
        width,
        heads: s.size("heads", Some(8))?,
        layers: s.size("layers", Some(12))?,
        mlp_width: s.mlp_width(width)?,
        layer_scale: s.optional_f32("ls_init_value")?,
        pooling,
        is_causal: !s.flag("no_causal_mask", false)?,
        projection: text_projection(&s)?,
        activation,
        epsilon,
        tokens,
        prefix: "text.",
    };
    s.finish()?;
    Ok(config)
}

/// Parses the projection of a text tower.
fn text_projection(s: &Section<'_>) -> Parsed<EmbeddingProjection> {
    let has_bias = s.flag("proj_bias", false)?;
    Ok(match s.get("proj_type").and_then(Value::as_str) {
        Some("none") => EmbeddingProjection::None,
        _ if has_bias => EmbeddingProjection::Linear { bias: true },
        _ => EmbeddingProjection::Matrix,
    })
}

/// Returns keys that open_clip 4 has for other texts and tokenizers, and their defaults.
fn open_clip_4_defaults() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        ("variable_text", vec![false.into()]),
        ("tokenizer_type", vec!["".into()]),
        ("norm_type", vec![Value::Null]),
        ("attention_bias", vec![Value::Null]),
        ("mlp_bias", vec![Value::Null]),
    ]
}

/// Keys of open_clip 4 that it reads with `text_arch` = "modern", or another tokenizer, alone.
const MODERN_SKIP: &[&str] = &[
    "bos_id",
    "tiktoken_name",
    "attention_mode",
    "pos_embed",
    "rope_temperature",
    "mlp_type",
    "norm_eps",
    "attn_gated",
    "pre_norm",
    "norm_placement",
    "zero_init_residual",
    "gate_bias",
    "value_residual",
    "reg_tokens",
];

fn coca_pooling(s: &Section<'_>) -> Parsed<(TextPooling, TextTokens)> {
    s.require(&plain_norms_and_activations())?;
    s.require(&[
        ("no_causal_mask", vec![false.into()]),
        ("proj_bias", vec![false.into()]),
        ("proj_type", vec!["linear".into()]),
    ])?;
    s.skip(&["hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"]);
    // With a CLS embedding, pool_type and eos_id are not used.
    s.skip(&["eos_id", "pool_type"]);
    if !s.flag("embed_cls", false)? {
        return Err("`text_cfg.embed_cls` must be true: a CoCa's text embedding is its CLS token".into());
    }
    Ok((TextPooling::ClassToken, TextTokens::CLIP))
}

fn clip_pooling(s: &Section<'_>) -> Parsed<(TextPooling, TextTokens)> {
    s.require(&[("embed_cls", vec![false.into()])])?;
    let tokens = tokens::parse(s)?;
    let is_clip = tokens == TextTokens::CLIP;
    let pooling = match s.get("pool_type").map(|v| (v, v.as_str())) {
        None | Some((_, Some("argmax"))) if is_clip => TextPooling::EndToken,
        Some((v, Some("argmax"))) => {
            return Err(s.unsupported("pool_type", v, "last or eos, with this tokenizer"));
        }
        None => return Err("`text_cfg.pool_type` must be last or eos, with this tokenizer".into()),
        Some((_, Some("last"))) => TextPooling::Last,
        Some((_, Some("eos"))) => match (s.get("eos_id"), tokens.family.special_entries()) {
            (Some(id), Some(entries)) if id.as_i64() == Some(entries.end.1) => {
                TextPooling::FirstOf(entries.end.1)
            }
            (id, _) => {
                let id = id.cloned().unwrap_or_default();
                return Err(s.unsupported(
                    "eos_id",
                    &id,
                    "the end token of the tokenizer in `hf_tokenizer_name`, with `pool_type` = \"eos\"",
                ));
            }
        },
        Some((v, _)) => return Err(s.unsupported("pool_type", v, "argmax, last or eos")),
    };
    s.skip(&["eos_id"]);
    Ok((pooling, tokens))
}

/// Parses `multimodal_cfg`.
pub(super) fn parse_decoder(
    s: Section<'_>,
    text_context: usize,
    input: MultimodalInput,
) -> Parsed<DecoderConfig> {
    s.require(&custom_block_defaults())?;
    s.require(&plain_norms_and_activations())?;
    s.require(&[("text_arch", vec!["clip".into()])])?;
    s.require(&open_clip_4_defaults())?;
    s.skip(MODERN_SKIP);
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
    s.skip(&["hf_pooler_type", "hf_model_config"]);
    s.require(&[("hf_model_name", vec![])])?;
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
        input,
        layer_scale: s.optional_f32("ls_init_value")?,
    };
    s.finish()?;
    Ok(config)
}
