//! `open_clip_config.json`, parsed strictly: a CoCa when it has a `multimodal_cfg`, a CLIP when it has none.
//!
//! Every key of open_clip 3.3.0's `CLIPVisionCfg`, `CLIPTextCfg` and `MultimodalCfg` is known here: those that change
//! the graph are read, those that do not are skipped, and every other one must have its default value. A key that
//! nobody knows is an error too: it may change the graph. What open_clip has no option for stands in an object of our
//! own beside `model_cfg`: see [`own`].

mod own;
mod preprocess;
mod section;
mod towers;

pub use own::{MultimodalInput, PoolerKind};
use preprocess::parse_preprocess;
use recaption_schemas::Preprocess;
use section::Section;
use serde_json::Value;
use towers::{parse_decoder, parse_text, parse_vision};

/// Start of the logarithm of the contrastive temperature: open_clip's `init_logit_scale`, ln(1 / 0.07).
const INIT_LOGIT_SCALE: f32 = 2.659_26;

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
    /// Who answers what.
    pub kind: PoolerKind,
    /// Queries of `attn_pool`: caption tokens, but for the first one of a [`PoolerKind::Released`].
    pub queries: usize,
    /// Attention heads, of the contrastive pooler too.
    pub heads: usize,
}

impl PoolerConfig {
    /// Queries whose answers are tokens for the decoder.
    #[must_use]
    pub fn caption_tokens(&self) -> usize {
        match self.kind {
            PoolerKind::Released => self.queries - 1,
            PoolerKind::Parallel | PoolerKind::Cascade => self.queries,
        }
    }
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
    /// LayerScale: what its factors begin with (`ls_init_value`), or none.
    pub layer_scale: Option<f32>,
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
    /// LayerScale: what its factors begin with (`ls_init_value`), or none.
    pub layer_scale: Option<f32>,
    /// Where the embedding comes from.
    pub pooling: TextPooling,
    /// What its tensors' names begin with: `text.`, or nothing in a CLIP without `custom_text`.
    pub prefix: &'static str,
}

/// The multimodal decoder: as many self-attention blocks as cross-attention blocks. Its MLP is always 4 times wider.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Width of the tokens; the text tower's and the caption tokens' width too.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Pairs of blocks.
    pub layers: usize,
    /// Longest text it takes.
    pub context_length: usize,
    /// What it reads of the text.
    pub input: MultimodalInput,
    /// LayerScale: what its factors begin with (`ls_init_value`), or none.
    pub layer_scale: Option<f32>,
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
    /// What `logit_scale` begins with, a natural logarithm; no graph has it.
    pub init_logit_scale: f32,
    /// What `logit_bias` begins with, where the model has one; no graph has it.
    pub init_logit_bias: Option<f32>,
    /// Resizing.
    pub preprocess: Preprocess,
    /// Normalisation.
    pub normalisation: Normalisation,
}

type Parsed<T> = Result<T, String>;

impl ModelConfig {
    /// Parses the file's text.
    ///
    /// # Errors
    /// A sentence naming the key that is missing, malformed, unknown or outside the supported set.
    pub fn parse(text: &str) -> Parsed<Self> {
        let root: Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}"))?;
        let Value::Object(root) = root else { return Err("expected a JSON object".into()) };
        for key in root.keys() {
            if !["model_cfg", "preprocess_cfg", own::SECTION].contains(&key.as_str()) {
                return Err(match key.as_str() {
                    "embed_dim" => "this is a bare model configuration; expected `model_cfg` around it, as on the Hugging Face hub".into(),
                    _ => format!("unknown key `{key}` beside `model_cfg`, `preprocess_cfg` and `recaption`"),
                });
            }
        }
        let model = Section::of(&root, "model_cfg")?;
        let has_decoder = model.map.get("multimodal_cfg").is_some_and(|v| !v.is_null());
        let activation =
            if model.flag("quick_gelu", false)? { Activation::QuickGelu } else { Activation::Gelu };
        let embed_dim = model.size("embed_dim", None)?;
        model.defaults(&[("pad_id", vec![0.into()]), ("nonscalar_logit_scale", vec![false.into()])])?;
        let init_logit_scale = model.single("init_logit_scale")?.unwrap_or(INIT_LOGIT_SCALE);
        let init_logit_bias = model.single("init_logit_bias")?;
        model.skip(&["custom_text", "cast_dtype"]);
        model.skip(&["vision_cfg", "text_cfg", "multimodal_cfg"]);
        let own = own::parse(&root, has_decoder)?;
        let mut vision = parse_vision(Section::of(model.map, "vision_cfg")?, has_decoder)?;
        own.apply_to(&mut vision)?;
        let text = parse_text(Section::of(model.map, "text_cfg")?, has_decoder)?;
        let decoder = if has_decoder {
            let section = Section::of(model.map, "multimodal_cfg")?;
            Some(parse_decoder(section, text.context_length, own.input)?)
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

    /// Tokens that the decoder cross-attends to.
    #[must_use]
    pub fn image_tokens(&self) -> usize {
        match self.vision.pooler {
            Some(pooler) => pooler.caption_tokens(),
            None => self.vision.grid() * self.vision.grid(),
        }
    }

    /// Layers of the text tower that stand before the decoder when it reads a text: none when it reads embeddings.
    #[must_use]
    pub fn decoding_text_layers(&self) -> usize {
        match self.decoder.map(|d| d.input) {
            Some(MultimodalInput::Unimodal) => self.text.layers,
            Some(MultimodalInput::Embeddings) | None => 0,
        }
    }
}

fn check_heads(what: &str, width: usize, heads: usize) -> Parsed<()> {
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(format!("{what}: width {width} is not divisible by {heads} heads"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
