//! `open_clip_config.json`, parsed strictly: a CoCa when it has a `multimodal_cfg`, a CLIP when it has none.
//!
//! Every key of the `CLIPVisionCfg`, `CLIPTextCfg` and `MultimodalCfg` of open_clip 3.3.0 and 4.2 is known here: those that change
//! the graph are read, those that do not are skipped, and every other one must have its default value. A key that
//! is unknown is an error too: it may change the graph. Options that open_clip does not have are in an object `recaption`
//! next to `model_cfg`, see `extensions`.

mod extensions;
pub(super) mod preprocess;
pub(super) mod section;
#[cfg(test)]
mod tests;
mod timm;
mod timm_vits;
mod tokens;
mod towers;
pub(super) mod types;

use preprocess::parse_preprocess;
use section::{Parsed, Section};
use serde_json::Value;
use timm::parse_timm;
pub use tokens::{TextTokens, TokenizerFamily};
use towers::{parse_decoder, parse_text, parse_vision};
pub use types::{
    Activation, DecoderConfig, EmbeddingProjection, ImageBlocks, ImagePooling, ModelConfig, MultimodalInput,
    Normalisation, PoolerConfig, PoolerKind, RotaryPositions, TextConfig, TextPooling, VisionConfig,
};

/// Initial value of the contrastive temperature's logarithm: open_clip's `init_logit_scale`, ln(1 / 0.07).
pub(super) const INIT_LOGIT_SCALE: f32 = 2.659_26;

/// Objects of a `model_cfg` that stand for other kinds of models, and what these are.
const OTHER_MODELS: [(&str, &str); 4] = [
    ("audio_cfg", "a model of audio and text (CLAP)"),
    ("genlap_cfg", "a generative model of audio and text (GenLAP)"),
    ("genlip_cfg", "a generative model of image patches and text in one transformer (GenLIP)"),
    ("audio_naflex_cfg", "a model of audio"),
];

impl ModelConfig {
    /// Parses the text of `open_clip_config.json`.
    ///
    /// # Errors
    /// A message naming the key that is missing, malformed, unknown or unsupported.
    pub fn parse(text: &str) -> Result<Self, String> {
        let root: Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}"))?;
        let Value::Object(root) = root else { return Err("expected a JSON object".into()) };
        for key in root.keys() {
            if !["model_cfg", "preprocess_cfg", extensions::SECTION].contains(&key.as_str()) {
                return Err(match key.as_str() {
                    "embed_dim" => "this is a bare model configuration; expected it inside `model_cfg`, as on the Hugging Face hub".into(),
                    _ => format!("unknown key `{key}` next to `model_cfg`, `preprocess_cfg` and `recaption`"),
                });
            }
        }
        let model = Section::of(&root, "model_cfg")?;
        if let Some((key, what)) = OTHER_MODELS.iter().find(|(key, _)| model.map.contains_key(*key)) {
            return Err(format!("`model_cfg.{key}` is not supported: it makes {what}"));
        }
        let has_decoder = model.map.get("multimodal_cfg").is_some_and(|v| !v.is_null());
        let activation =
            if model.flag("quick_gelu", false)? { Activation::QuickGelu } else { Activation::Gelu };
        let embed_dim = model.size("embed_dim", None)?;
        model.require(&[("pad_id", vec![0.into()]), ("nonscalar_logit_scale", vec![false.into()])])?;
        let init_logit_scale = model.optional_f32("init_logit_scale")?.unwrap_or(INIT_LOGIT_SCALE);
        let init_logit_bias = model.optional_f32("init_logit_bias")?;
        model.skip(&["custom_text", "cast_dtype"]);
        model.skip(&["vision_cfg", "text_cfg", "multimodal_cfg"]);
        let extensions = extensions::parse(&root, has_decoder)?;
        let section = Section::of(model.map, "vision_cfg")?;
        let mut vision = match section.get("timm_model_name") {
            Some(name) if name != "" => parse_timm(section, has_decoder, embed_dim)?,
            _ => parse_vision(section, has_decoder, activation)?,
        };
        extensions.apply_to(&mut vision)?;
        let text = parse_text(Section::of(model.map, "text_cfg")?, has_decoder, activation)?;
        let decoder = if has_decoder {
            let section = Section::of(model.map, "multimodal_cfg")?;
            Some(parse_decoder(section, text.context_length, extensions.input)?)
        } else {
            None
        };
        model.finish()?;
        let (preprocess, normalisation) = parse_preprocess(&root, vision.image_size)?;
        let config = Self {
            embed_dim,
            vision,
            text,
            decoder,
            activation,
            init_logit_scale,
            init_logit_bias,
            preprocess,
            normalisation,
        };
        config.check()?;
        Ok(config)
    }

    /// Checks that sections do not contradict each other.
    pub(super) fn check(&self) -> Parsed<()> {
        check_heads("vision_cfg", self.vision.width, self.vision.heads)?;
        check_heads("text_cfg", self.text.width, self.text.heads)?;
        if let Some(decoder) = &self.decoder {
            self.check_decoder(decoder)?;
        }
        if self.text.projection == EmbeddingProjection::None && self.text.width != self.embed_dim {
            return Err(format!(
                "`text_cfg.proj_type` is none, but `text_cfg.width` is {} and `embed_dim` {}",
                self.text.width, self.embed_dim
            ));
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
                if pooler.caption_tokens() == 0 {
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
}

/// Checks that a width is divisible by a number of heads.
fn check_heads(what: &str, width: usize, heads: usize) -> Parsed<()> {
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!("{what}: width {width} is not divisible by {heads} heads"));
    }
    Ok(())
}
