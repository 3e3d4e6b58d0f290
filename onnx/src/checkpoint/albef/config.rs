//! `config.json` of an ALBEF: the keys of the authors' YAML files, `bert` with those of their `config_bert.json`, and what their code
//! fixes. Defaults are the authors'.

use recaption_schemas::{Interpolation, Preprocess, ResizeMode};
use serde_json::{Map, Value};

use crate::{
    checkpoint::{
        blip::{BlipTextConfig, BlipVisionConfig},
        config::{
            Normalisation,
            preprocess::{OPENAI_MEAN, OPENAI_STD},
            section::{Parsed, Section},
        },
    },
    model::SpecialIds,
};

/// Special ids of bert-base-uncased.
const BERT_IDS: SpecialIds = SpecialIds { pad: 0, start: 101, end: 102 };
/// Ratio of the image encoder's MLP to its width, which the authors' code fixes.
const VISION_MLP_RATIO: usize = 4;

/// An ALBEF.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlbefConfig {
    /// Image encoder. Its layers are a BLIP's.
    pub vision: BlipVisionConfig,
    /// Text encoder and fusion, one BERT. The start token is `[CLS]`.
    pub text: BlipTextConfig,
    /// Layers of the text encoder; those from here on attend to the image.
    pub fusion_layer: usize,
    /// Number of token type embeddings; texts have the first.
    pub token_types: usize,
    /// Width of the shared embedding.
    pub embed_dim: usize,
    /// Columns of the feature queues that serve training, if it is set.
    pub queue_size: Option<usize>,
    /// Longest text, in ids, if it is set.
    pub max_text_tokens: Option<usize>,
    /// How images are resized.
    pub preprocess: Preprocess,
    /// How pixels are normalised.
    pub normalisation: Normalisation,
}

impl AlbefConfig {
    /// Parses the text of `config.json`. `tokenizer` has the special ids of the tokenizer beside it.
    ///
    /// # Errors
    /// A message naming the key that is malformed, unsupported or contradicts another.
    pub fn parse(text: &str, tokenizer: Option<SpecialIds>) -> Parsed<Self> {
        let root: Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}"))?;
        let Value::Object(root) = root else { return Err("expected a JSON object".into()) };
        let s = Section::new("config", &root);
        let vision = parse_vision(&s)?;
        let empty = Map::new();
        let bert = section(&root, "bert", &empty)?;
        let special = special_ids(&root, &bert, tokenizer)?;
        let text = parse_text(&bert, special, vision.width)?;
        let size = u32::try_from(vision.image_size).map_err(|e| e.to_string())?;
        Ok(Self {
            vision,
            text,
            fusion_layer: fusion_layer(&bert, text.layers)?,
            token_types: bert.size("type_vocab_size", Some(2))?,
            embed_dim: s.size("embed_dim", Some(256))?,
            queue_size: optional_size(&s, "queue_size")?,
            max_text_tokens: optional_size(&s, "max_text_tokens")?
                .map(|most| {
                    if most >= 2 {
                        Ok(most)
                    } else {
                        Err("`config.max_text_tokens` below 2 leaves no room for a word".to_owned())
                    }
                })
                .transpose()?,
            preprocess: Preprocess {
                size,
                resize_mode: ResizeMode::Squash,
                interpolation: Interpolation::Bicubic,
            },
            normalisation: normalisation(&s)?,
        })
    }
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

fn optional_size(s: &Section<'_>, key: &'static str) -> Parsed<Option<usize>> {
    if s.get(key).is_some() { s.size(key, None).map(Some) } else { Ok(None) }
}

fn parse_vision(s: &Section<'_>) -> Parsed<BlipVisionConfig> {
    let width = s.size("vision_width", Some(768))?;
    let config = BlipVisionConfig {
        image_size: s.size("image_res", None)?,
        patch_size: s.square("patch_size", 16)?,
        width,
        layers: s.size("vision_depth", Some(12))?,
        heads: s.size("vision_heads", Some(12))?,
        mlp_width: VISION_MLP_RATIO * width,
        epsilon: epsilon(s, "vision_norm_eps", 1e-6)?,
        norm_pre: s.flag("vision_norm_pre", false)?,
    };
    if !width.is_multiple_of(config.heads) {
        return Err(format!(
            "`config.vision_width` {width} is not divisible by `vision_heads` {}",
            config.heads
        ));
    }
    if config.patches() == 0 {
        return Err("`config.patch_size` is larger than `image_res`".into());
    }
    Ok(config)
}

fn parse_text(s: &Section<'_>, special: SpecialIds, image_width: usize) -> Parsed<BlipTextConfig> {
    s.require(&[("hidden_act", vec!["gelu".into()]), ("position_embedding_type", vec!["absolute".into()])])?;
    let config = BlipTextConfig {
        vocab_size: s.size("vocab_size", Some(30522))?,
        width: s.size("hidden_size", Some(768))?,
        layers: s.size("num_hidden_layers", Some(12))?,
        heads: s.size("num_attention_heads", Some(12))?,
        mlp_width: s.size("intermediate_size", Some(3072))?,
        context_length: s.size("max_position_embeddings", Some(512))?,
        epsilon: epsilon(s, "layer_norm_eps", 1e-12)?,
        special,
    };
    if !config.width.is_multiple_of(config.heads) {
        return Err(format!(
            "`bert.hidden_size` {} is not divisible by `num_attention_heads` {}",
            config.width, config.heads
        ));
    }
    if config.context_length < 2 {
        return Err("`bert.max_position_embeddings` below 2 leaves no room for a text".into());
    }
    let encoder_width = s.size("encoder_width", Some(image_width))?;
    if encoder_width != image_width {
        return Err(format!(
            "`bert.encoder_width` is {encoder_width}, but `vision_width` is {image_width}: the fusion attends to the image's tokens"
        ));
    }
    let SpecialIds { pad, start, end } = special;
    let vocabulary = 0..config.vocab_size as i64;
    if let Some(id) = [pad, start, end].into_iter().find(|id| !vocabulary.contains(id)) {
        return Err(format!(
            "`special_ids` has id {id}, but `bert.vocab_size` is {}: set pad, cls and sep",
            config.vocab_size
        ));
    }
    if pad == start || pad == end || start == end {
        return Err(format!("`special_ids`: pad {pad}, cls {start} and sep {end} must differ"));
    }
    Ok(config)
}

/// Returns the first layer that attends to the image.
fn fusion_layer(s: &Section<'_>, layers: usize) -> Parsed<usize> {
    let Some(value) = s.get("fusion_layer") else {
        return if layers > 6 { Ok(6) } else { Err("`bert.fusion_layer` is missing".into()) };
    };
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
    number.filter(|n| *n < layers).ok_or_else(|| {
        s.unsupported("fusion_layer", value, &format!("a number below `num_hidden_layers`, {layers}"))
    })
}

/// Returns padding, `[CLS]` and `[SEP]`: what is set, or else what the tokenizer has, or else bert-base-uncased's.
fn special_ids(
    root: &Map<String, Value>,
    bert: &Section<'_>,
    tokenizer: Option<SpecialIds>,
) -> Parsed<SpecialIds> {
    let empty = Map::new();
    let s = section(root, "special_ids", &empty)?;
    let defaults = tokenizer.unwrap_or(BERT_IDS);
    let id = |s: &Section<'_>, key: &'static str, default: i64| match s.get(key) {
        None => Ok(default),
        Some(v) => v.as_i64().ok_or_else(|| s.unsupported(key, v, "an id")),
    };
    let ids = SpecialIds {
        pad: id(&s, "pad", id(bert, "pad_token_id", defaults.pad)?)?,
        start: id(&s, "cls", defaults.start)?,
        end: id(&s, "sep", defaults.end)?,
    };
    if id(bert, "pad_token_id", ids.pad)? != ids.pad {
        return Err(format!("`special_ids.pad` is {}, but `bert.pad_token_id` is another", ids.pad));
    }
    if let Some(theirs) = tokenizer.filter(|theirs| *theirs != ids) {
        return Err(format!(
            "`special_ids`: pad {}, cls {} and sep {}, but the tokenizer beside it has {}, {} and {}",
            ids.pad, ids.start, ids.end, theirs.pad, theirs.start, theirs.end
        ));
    }
    Ok(ids)
}

/// Returns an epsilon of LayerNorm, which must be positive.
fn epsilon(s: &Section<'_>, key: &'static str, default: f32) -> Parsed<f32> {
    let value = s.optional_f32(key)?.unwrap_or(default);
    if value > 0.0 {
        Ok(value)
    } else {
        Err(s.unsupported(key, &f64::from(value).into(), "a positive number"))
    }
}

fn normalisation(s: &Section<'_>) -> Parsed<Normalisation> {
    let channels = |key: &'static str, default: [f64; 3]| -> Parsed<[f64; 3]> {
        let Some(v) = s.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f64>> = v.as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
        numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| s.unsupported(key, v, "three numbers"))
    };
    let normalisation =
        Normalisation { mean: channels("mean", OPENAI_MEAN)?, std: channels("std", OPENAI_STD)? };
    if normalisation.std.iter().any(|s| *s <= 0.0) {
        return Err("`config.std` must be positive".into());
    }
    Ok(normalisation)
}
