//! The second layer: validated settings, built once by one fallible function.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use recaption_caption::{
    filter::Filter,
    rules::{RuleSettings, TextRules},
};
use recaption_image::DecodeOptions;
use recaption_input::{
    fetch::{FetchSettings, Fetcher},
    read::{Columns, ROWS_PER_SHARD, ReadSettings},
    told::CaptionPick,
};
use recaption_onnx::runtime::{Devices, Execution, Provider};
use recaption_store::StoreSettings;

use super::{
    captioning::Captioning,
    layers::{ConfigError, Layers},
};

/// Images decoded together by one copy of the model. Larger batches win little on CPUs and cost memory.
pub const DEFAULT_BATCH_SIZE: usize = 32;
/// The same on a GPU, where a step of few rows waits for memory alone: what the default `run.cache_bytes` holds of a
/// coca_ViT-L-14 in half precision, 15 MB an image.
pub const GPU_BATCH_SIZE: usize = 256;
/// Shards read at the same time: one hides the other's latency.
const DEFAULT_CONCURRENT_SHARDS: usize = 2;
/// Memory for attention caches.
const DEFAULT_CACHE_BYTES: u64 = 4 << 30;
/// Image bytes held between reading and decoding.
const DEFAULT_BUFFER_BYTES: usize = 256 << 20;

/// A column that is looked for by its usual names.
const AUTO_COLUMN: &str = "auto";
/// Time after which a lock in a bucket is past.
const DEFAULT_LOCK_SECONDS: u64 = 600;
/// Time after which the shards of a worker that is not heard of are others' to do.
const DEFAULT_CLAIM_SECONDS: u64 = 20;
/// Share of failed samples beyond which a run stops.
const DEFAULT_MAX_FAILURE_RATIO: f64 = 0.5;

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
    /// Model folder of the judge; `None` is the captioner.
    pub scorer: Option<PathBuf>,
    /// What is to compute.
    pub provider: Provider,
    /// Number of the GPU, where one computes.
    pub devices: Devices,
    /// Whether decoding steps on a GPU may be captured and replayed.
    pub cuda_graphs: bool,
    /// Copies of the model; `None` chooses by its size.
    pub sessions: Option<usize>,
    /// Strategy, candidates, prompt.
    pub captioning: Captioning,
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
    /// How shards are read.
    pub read: Arc<ReadSettings>,
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
    /// Images decoded together; `None` is by what computes.
    pub batch_size: Option<usize>,
    /// Memory for attention caches, all copies of the model together.
    pub cache_bytes: u64,
    /// Share of failed samples beyond which the run stops, 0 to 1.
    pub max_failure_ratio: f64,
    /// Whether a device is compared with the CPU before a run begins.
    pub self_test: bool,
    /// Seconds after which the lock of a run that was not heard of is past, in a bucket.
    pub lock_seconds: u64,
    /// Time after which a worker that is not heard of is taken for dead; nothing is shared out without.
    pub claims: Option<Duration>,
    /// How stores are spoken to.
    pub stores: StoreSettings,
    /// What was typed, for the run's record.
    pub typed: BTreeMap<String, String>,
}

/// The error of a required key that no layer sets.
fn required(name: &str, flag: &str) -> ConfigError {
    let what = format!("`{name}` is not set: give it in the file or as {flag}");
    ConfigError::new("configuration", what)
}

impl RunConfig {
    /// Validates what was typed.
    ///
    /// # Errors
    /// A required key that is missing, a combination that makes no sense.
    pub fn build(layers: &Layers) -> Result<Self, ConfigError> {
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
        let embeds = layers.text("output.images").as_deref() == Some("embed");
        let images = if embeds { Images::Embed } else { Images::None };
        let (provider, devices) = provider_and_devices(layers)?;
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        Ok(Self {
            captioner: PathBuf::from(captioner),
            scorer: layers.text("model.scorer").filter(|dir| !dir.is_empty()).map(PathBuf::from),
            provider,
            devices,
            cuda_graphs: layers.flag("model.cuda_graphs").unwrap_or(true),
            sessions: size("model.sessions").filter(|n| *n > 0),
            captioning: Captioning::build(layers)?,
            min_tokens,
            max_tokens,
            filter: Filter {
                min_similarity: layers.real("filter.min_similarity").map(|n| n as f32),
                rules: Arc::new(text_rules(layers)?),
            },
            shards,
            decode: decode_options(layers),
            read: Arc::new(read_settings(layers)?),
            concurrent_shards: size("input.concurrent_shards").unwrap_or(DEFAULT_CONCURRENT_SHARDS),
            buffer_bytes: size("input.buffer_bytes").unwrap_or(DEFAULT_BUFFER_BYTES),
            output,
            images,
            seed: unsigned("run.seed").unwrap_or(0),
            threads: size("run.threads").unwrap_or(cores),
            batch_size: size("run.batch_size"),
            cache_bytes: unsigned("run.cache_bytes").unwrap_or(DEFAULT_CACHE_BYTES),
            max_failure_ratio: layers.real("run.max_failure_ratio").unwrap_or(DEFAULT_MAX_FAILURE_RATIO),
            self_test: layers.flag("run.self_test").unwrap_or(true),
            lock_seconds: unsigned("run.lock_seconds").unwrap_or(DEFAULT_LOCK_SECONDS),
            claims: lease_of_claims(layers),
            stores: store_settings(layers),
            typed: layers.describe(),
        })
    }

    /// Images decoded together by one copy of the model.
    #[must_use]
    pub fn batch_size(&self, execution: Execution) -> usize {
        self.batch_size.unwrap_or(if execution.is_gpu() { GPU_BATCH_SIZE } else { DEFAULT_BATCH_SIZE })
    }

    /// Settings that are no row keys and yet may be why a sample is rejected, with their values: when one changes, a retry
    /// takes such samples up again ([`RejectReason::setting`](recaption_schemas::RejectReason::setting)).
    #[must_use]
    pub fn reject_settings(&self) -> BTreeMap<String, String> {
        let fetch = self.read.fetcher.as_ref().map(|fetcher| fetcher.settings());
        let values = fetch.into_iter().flat_map(|fetch| {
            [
                ("fetch.allow_private", fetch.allow_private.to_string()),
                ("fetch.max_bytes", fetch.max_bytes.to_string()),
            ]
        });
        let decode = ("input.decode_bytes", self.decode.budget_bytes.to_string());
        values.chain([decode]).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The keys that change rows, with their values: two runs may share an output only if these are equal. Keys that a
    /// strategy does not look at, and those that only change speed, are not among them; nor is what computes, whose floats
    /// agree but for rounding: the run's record tells it.
    #[must_use]
    pub fn row_keys(
        &self,
        model_digest: &str,
        scorer_digest: Option<&str>,
        max_tokens: usize,
    ) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        let mut put = |name: &str, value: String| keys.insert(name.to_owned(), value);
        put("model.captioner", model_digest.to_owned());
        // Absent without one, as in outputs that are older than scorers.
        if let Some(digest) = scorer_digest {
            put("model.scorer", digest.to_owned());
        }
        self.captioning.put_row_keys(self.seed, &mut put);
        put("caption.min_tokens", self.min_tokens.to_string());
        put("caption.max_tokens", max_tokens.to_string());
        put("filter.min_similarity", self.filter.min_similarity.map_or("off".into(), |v| v.to_string()));
        put("input.format", self.read.format.as_str().into());
        let columns = &self.read.columns;
        // Those that are looked for by their usual names are not told.
        if let Some(fetcher) = &self.read.fetcher
            && fetcher.settings().opt_out != FetchSettings::default().opt_out
        {
            put("fetch.opt_out", fetcher.settings().opt_out.join(", "));
        }
        for (name, column) in [
            ("input.image_column", &columns.image),
            ("input.caption_column", &columns.caption),
            ("input.url_column", &columns.url),
            ("input.key_column", &columns.key),
        ] {
            if let Some(column) = column {
                put(name, column.clone());
            }
        }
        if self.read.captions.pick != CaptionPick::default() {
            put("input.caption_pick", self.read.captions.pick.as_str().to_owned());
        }
        if self.read.captions.pick == CaptionPick::Random {
            put("run.seed", self.seed.to_string());
        }
        if !self.read.image_suffixes.is_empty() {
            put("input.image_suffixes", self.read.image_suffixes.join(", "));
        }
        if self.read.rows_per_shard != ROWS_PER_SHARD {
            put("input.rows_per_shard", self.read.rows_per_shard.to_string());
        }
        put("input.max_pixels", self.decode.max_pixels.to_string());
        put("input.min_side", self.decode.min_side.to_string());
        put("input.exif_orientation", self.decode.exif_orientation.to_string());
        put("input.max_member_bytes", self.read.tar.max_member_bytes.to_string());
        put("output.images", self.images.as_str().into());
        // Rules that are off are not among them: an output made before there were rules stays the same.
        for (name, value) in self.filter.rules.row_keys() {
            put(name, value);
        }
        keys
    }
}

/// Time after which a worker is taken for dead.
fn lease_of_claims(layers: &Layers) -> Option<Duration> {
    let seconds = layers.integer("run.claim_seconds").and_then(|n| u64::try_from(n).ok());
    Some(seconds.unwrap_or(DEFAULT_CLAIM_SECONDS)).filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

fn decode_options(layers: &Layers) -> DecodeOptions {
    let mut decode = DecodeOptions::default();
    if let Some(pixels) = layers.integer("input.max_pixels").and_then(|n| u64::try_from(n).ok()) {
        decode.max_pixels = pixels;
    }
    if let Some(side) = layers.integer("input.min_side").and_then(|n| u32::try_from(n).ok()) {
        decode.min_side = side;
    }
    if let Some(bytes) = layers.integer("input.decode_bytes").and_then(|n| u64::try_from(n).ok()) {
        decode.budget_bytes = bytes;
    }
    if let Some(apply) = layers.flag("input.exif_orientation") {
        decode.exif_orientation = apply;
    }
    decode
}

fn text_rules(layers: &Layers) -> Result<TextRules, ConfigError> {
    let size = |name: &str| layers.integer(name).and_then(|n| usize::try_from(n).ok());
    let flag = |name: &str| layers.flag(name).unwrap_or(false);
    let settings = RuleSettings {
        min_words: size("rules.min_words"),
        max_words: size("rules.max_words"),
        min_chars: size("rules.min_chars"),
        max_chars: size("rules.max_chars"),
        max_repeats: size("rules.max_repeats"),
        ngram: size("rules.ngram"),
        banned_words: layers.texts("rules.banned_words"),
        junk: flag("rules.junk"),
        duplicates: flag("rules.duplicates"),
    };
    TextRules::new(settings).map_err(|e| ConfigError::new(layers.origin(e.key), e.what))
}

fn read_settings(layers: &Layers) -> Result<ReadSettings, ConfigError> {
    let mut settings = ReadSettings::default();
    if let Some(bytes) = layers.integer("input.max_member_bytes").and_then(|n| u64::try_from(n).ok()) {
        settings.tar.max_member_bytes = bytes;
    }
    if let Some(format) = layers.text("input.format") {
        let wrong = |what| ConfigError::new(layers.origin("input.format"), what);
        settings.format = format.parse().map_err(wrong)?;
    }
    if let Some(pick) = layers.text("input.caption_pick") {
        let wrong = |what| ConfigError::new(layers.origin("input.caption_pick"), what);
        settings.captions.pick = pick.parse().map_err(wrong)?;
    }
    settings.captions.seed = layers.integer("run.seed").and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    settings.image_suffixes = layers.texts("input.image_suffixes");
    let column = |name: &str| layers.text(name).filter(|name| name != AUTO_COLUMN);
    settings.columns = Columns {
        image: column("input.image_column"),
        caption: column("input.caption_column"),
        url: column("input.url_column"),
        key: column("input.key_column"),
    };
    if let Some(rows) = layers.integer("input.rows_per_shard").and_then(|n| u64::try_from(n).ok()) {
        settings.rows_per_shard = rows;
    }
    settings.fetcher = Some(fetcher(layers, settings.tar.max_member_bytes)?);
    Ok(settings)
}

/// Who fetches what lists of addresses name.
fn fetcher(layers: &Layers, max_bytes: u64) -> Result<Fetcher, ConfigError> {
    let size = |name: &str| layers.integer(name).and_then(|n| usize::try_from(n).ok());
    let mut settings = FetchSettings::default();
    let largest = layers.integer("fetch.max_bytes").and_then(|n| u64::try_from(n).ok());
    settings.max_bytes = largest.unwrap_or(settings.max_bytes).min(max_bytes);
    if let Some(seconds) = layers.real("fetch.timeout_seconds") {
        settings.timeout = Duration::from_secs_f64(seconds);
    }
    if let Some(retries) = size("fetch.retries").and_then(|n| u32::try_from(n).ok()) {
        settings.retries = retries;
    }
    settings.concurrency = size("fetch.concurrency").unwrap_or(settings.concurrency);
    settings.per_host = size("fetch.per_host").unwrap_or(settings.per_host);
    if let Some(agent) = layers.text("fetch.user_agent") {
        settings.user_agent = agent;
    }
    settings.allow_private = layers.flag("fetch.allow_private").unwrap_or(false);
    if layers.is_set("fetch.opt_out") {
        settings.opt_out = layers.texts("fetch.opt_out");
    }
    Fetcher::new(settings).map_err(|what| ConfigError::new(layers.origin("fetch.user_agent"), what))
}

/// How stores are spoken to.
#[must_use]
pub fn store_settings(layers: &Layers) -> StoreSettings {
    let mut stores = StoreSettings::default();
    if let Some(retries) = layers.integer("store.retries").and_then(|n| u32::try_from(n).ok()) {
        stores.retry.retries = retries;
    }
    if let Some(seconds) = layers.real("store.timeout_seconds") {
        stores.timeout = Duration::from_secs_f64(seconds);
    }
    if let Some(least) = layers.integer("store.min_bytes_per_second").and_then(|n| u64::try_from(n).ok()) {
        stores.min_bytes_per_second = least;
    }
    stores
}

/// The execution provider, and the numbers of the GPUs.
///
/// # Errors
/// An unknown provider.
pub fn provider_and_devices(layers: &Layers) -> Result<(Provider, Devices), ConfigError> {
    let devices = layers.devices("model.device").unwrap_or_default();
    let Some(name) = layers.text("model.provider") else { return Ok((Provider::default(), devices)) };
    let wrong = |what: String| ConfigError::new(layers.origin("model.provider"), what);
    Ok((name.parse().map_err(wrong)?, devices))
}
