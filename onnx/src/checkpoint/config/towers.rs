//! `vision_cfg`, `text_cfg` and `multimodal_cfg`: the towers' sizes, and options that must have their default values.

use serde_json::{Map, Value};

use super::{
    section::{Parsed, Section},
    types::{
        DecoderConfig, MultimodalInput, PoolerConfig, PoolerKind, TextConfig, TextPooling, VisionConfig,
    },
};

/// Returns keys of custom blocks that must have their default values.
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

/// Parses `vision_cfg`.
pub(super) fn parse_vision(s: Section<'_>, has_decoder: bool) -> Parsed<VisionConfig> {
    s.skip(VISION_SKIP);
    s.require(&custom_block_defaults())?;
    s.require(&[
        ("timm_model_name", vec!["".into()]),
        ("pos_embed_type", vec!["learnable".into(), "sin_cos_2d".into()]),
        ("pool_type", vec!["tok".into()]),
        ("final_ln_after_pool", vec![false.into()]),
    ])?;
    if let Some(v @ Value::Array(_)) = s.get("layers") {
        return Err(s.unsupported("layers", v, "a whole number (a list means a ResNet)"));
    }
    let width = s.size("width", Some(768))?;
    let head_width = s.size("head_width", Some(64))?;
    let pooler = match s.get("attentional_pool") {
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
        layer_scale: s.optional_f32("ls_init_value")?,
    };
    s.finish()?;
    Ok(config)
}

/// Parses `text_cfg`.
pub(super) fn parse_text(s: Section<'_>, has_decoder: bool) -> Parsed<TextConfig> {
    if let Some(v) = s.get("hf_model_name") {
        return Err(s.unsupported(
            "hf_model_name",
            v,
            "none (text towers from Hugging Face transformers have other graphs)",
        ));
    }
    s.require(&custom_block_defaults())?;
    s.require(&[
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
        layer_scale: s.optional_f32("ls_init_value")?,
        pooling,
        prefix: "text.",
    };
    s.finish()?;
    Ok(config)
}

fn coca_pooling(s: &Section<'_>) -> Parsed<TextPooling> {
    s.skip(&["hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"]);
    // With a CLS embedding, pool_type and eos_id are not used.
    s.skip(&["eos_id", "pool_type"]);
    if !s.flag("embed_cls", false)? {
        return Err("`text_cfg.embed_cls` must be true: a CoCa's text embedding is its CLS token".into());
    }
    Ok(TextPooling::ClassToken)
}

fn clip_pooling(s: &Section<'_>) -> Parsed<TextPooling> {
    // Other tokenizers and text cleaning give other ids, which nothing would detect later.
    s.require(&[
        ("hf_tokenizer_name", vec![Value::Null]),
        ("tokenizer_mode", vec![Value::Null]),
        ("tokenizer_kwargs", vec![Value::Null, Value::Object(Map::new())]),
        ("embed_cls", vec![false.into()]),
        ("pool_type", vec!["argmax".into()]),
    ])?;
    s.skip(&["eos_id"]);
    Ok(TextPooling::EndToken)
}

/// Parses `multimodal_cfg`.
pub(super) fn parse_decoder(
    s: Section<'_>,
    text_context: usize,
    input: MultimodalInput,
) -> Parsed<DecoderConfig> {
    s.require(&custom_block_defaults())?;
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
