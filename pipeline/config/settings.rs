//! The second layer: validated settings, built once by one fallible function.

use std::{collections::BTreeMap, path::PathBuf};

use recaption_stages::{decode::DecodeOptions, filter::Filter, tar::TarLimits};

use super::layers::{ConfigError, Layers};

/// Images decoded together by one copy of the model. Larger batches win little on CPUs and cost memory.
pub const DEFAULT_BATCH_SIZE: usize = 32;
/// Shards read at the same time: one hides the other's latency.
const DEFAULT_CONCURRENT_SHARDS: usize = 2;
/// Image bytes held between reading and decoding.
const DEFAULT_BUFFER_BYTES: usize = 256 << 20;

/// Whether rows carry the stored image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// They don't.
    None,
    /// They do.
    Embed,
}

impl Images {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Embed => "embed",
        }
    }
}

/// Everything `recaption run` needs to know, valid.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Model folder.
    pub captioner: PathBuf,
    /// Copies of the model; `None` chooses by its size.
    pub sessions: Option<usize>,
    /// Fewest tokens before the end token.
    pub min_tokens: usize,
    /// Most generated tokens; `None` is the context length less one.
    pub max_tokens: Option<usize>,
    /// What is kept.
    pub filter: Filter,
    /// Input patterns.
    pub shards: Vec<String>,
    /// Image limits and orientation.
    pub decode: DecodeOptions,
    /// Archive limits.
    pub tar: TarLimits,
    /// Shards read at the same time.
    pub concurrent_shards: usize,
    /// Image bytes held between reading and decoding.
    pub buffer_bytes: usize,
    /// Output URL.
    pub output: String,
    /// Whether rows carry the stored image.
    pub images: Images,
    /// Seed of sampling.
    pub seed: u64,
    /// Threads.
    pub threads: usize,
    /// Images decoded together.
    pub batch_size: usize,
    /// What was typed, for the run's record.
    pub typed: BTreeMap<String, String>,
}

impl RunConfig {
    /// Validates what was typed.
    ///
    /// # Errors
    /// A required key that is missing, a combination that makes no sense, a feature that is not built yet.
    pub fn build(layers: &Layers) -> Result<Self, ConfigError> {
        not_built_yet(layers)?;
        let required = |name: &str, flag: &str| {
            ConfigError::new(
                "configuration",
                format!("`{name}` is not set: give it in the file or as {flag}"),
            )
        };
        let captioner =
            layers.text("model.captioner").ok_or_else(|| required("model.captioner", "--model MODEL"))?;
        let output = layers.text("output.url").ok_or_else(|| required("output.url", "--output URL"))?;
        let shards = layers.texts("input.shards");
        if shards.is_empty() {
            return Err(required("input.shards", "--input URL"));
        }
        let size = |name: &str| layers.integer(name).and_then(|n| usize::try_from(n).ok());
        let unsigned = |name: &str| layers.integer(name).and_then(|n| u64::try_from(n).ok());
        let min_tokens = size("caption.min_tokens").unwrap_or(1);
        let max_tokens = size("caption.max_tokens");
        if max_tokens.is_some_and(|max| min_tokens >= max) {
            return Err(ConfigError::new(
                layers.origin("caption.max_tokens"),
                "`caption.max_tokens` must be larger than `caption.min_tokens`, since it counts the end token",
            ));
        }
        let images = if layers.text("output.images").as_deref() == Some("embed") {
            Images::Embed
        } else {
            Images::None
        };
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        Ok(Self {
            captioner: PathBuf::from(captioner),
            sessions: size("model.sessions").filter(|n| *n > 0),
            min_tokens,
            max_tokens,
            filter: Filter { min_similarity: layers.real("filter.min_similarity").map(|n| n as f32) },
            shards,
            decode: decode_options(layers),
            tar: tar_limits(layers),
            concurrent_shards: size("input.concurrent_shards").unwrap_or(DEFAULT_CONCURRENT_SHARDS),
            buffer_bytes: size("input.buffer_bytes").unwrap_or(DEFAULT_BUFFER_BYTES),
            output,
            images,
            seed: unsigned("run.seed").unwrap_or(0),
            threads: size("run.threads").unwrap_or(cores),
            batch_size: size("run.batch_size").unwrap_or(DEFAULT_BATCH_SIZE),
            typed: layers.describe(),
        })
    }

    /// The keys that change rows, with their values: two runs may share an output only if these are equal. Keys that a
    /// strategy does not look at, and those that only change speed, are not among them.
    #[must_use]
    pub fn row_keys(&self, model_digest: &str, max_tokens: usize) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        let mut put = |name: &str, value: String| keys.insert(name.to_owned(), value);
        put("model.captioner", model_digest.to_owned());
        put("caption.strategy", "greedy".into());
        put("caption.candidates", "1".into());
        put("caption.min_tokens", self.min_tokens.to_string());
        put("caption.max_tokens", max_tokens.to_string());
        put("filter.min_similarity", self.filter.min_similarity.map_or("off".into(), |v| v.to_string()));
        put("input.format", "webdataset".into());
        put("input.max_pixels", self.decode.max_pixels.to_string());
        put("input.min_side", self.decode.min_side.to_string());
        put("input.exif_orientation", self.decode.exif_orientation.to_string());
        put("input.max_member_bytes", self.tar.max_member_bytes.to_string());
        put("output.images", self.images.as_str().into());
        keys
    }
}

fn decode_options(layers: &Layers) -> DecodeOptions {
    let mut decode = DecodeOptions::default();
    if let Some(pixels) = layers.integer("input.max_pixels").and_then(|n| u64::try_from(n).ok()) {
        decode.max_pixels = pixels;
    }
    if let Some(side) = layers.integer("input.min_side").and_then(|n| u32::try_from(n).ok()) {
        decode.min_side = side;
    }
    if let Some(apply) = layers.flag("input.exif_orientation") {
        decode.exif_orientation = apply;
    }
    decode
}

fn tar_limits(layers: &Layers) -> TarLimits {
    let mut tar = TarLimits::default();
    if let Some(bytes) = layers.integer("input.max_member_bytes").and_then(|n| u64::try_from(n).ok()) {
        tar.max_member_bytes = bytes;
    }
    tar
}

/// Refuses what the configuration knows but this version cannot do: better than doing something else.
fn not_built_yet(layers: &Layers) -> Result<(), ConfigError> {
    let refuse = |name: &str, what: &str| {
        Err(ConfigError::new(
            layers.origin(name),
            format!("`{name}`: {what} is not built yet in this version"),
        ))
    };
    if let Some(strategy) = layers.text("caption.strategy").filter(|s| s != "greedy") {
        return refuse("caption.strategy", &format!("strategy `{strategy}`"));
    }
    if let Some(provider) = layers.text("model.provider").filter(|p| p == "cuda" || p == "tensorrt") {
        return refuse("model.provider", &format!("provider `{provider}`"));
    }
    if layers.text("model.scorer").is_some() {
        return refuse("model.scorer", "a separate scorer");
    }
    if layers.text("caption.prompt").is_some_and(|p| !p.is_empty()) {
        return refuse("caption.prompt", "a caption prompt");
    }
    if layers.integer("caption.candidates").is_some_and(|n| n != 1) {
        return refuse("caption.candidates", "more than one candidate");
    }
    Ok(())
}
