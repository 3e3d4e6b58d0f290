//! The validated settings, by section, built once by one fallible function.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use recaption_caption::filter::Filter;
use recaption_config::ConfigError;
use recaption_image::DecodeOptions;
use recaption_input::{
    SettingNames,
    fetch::{FetchSettings, Fetcher},
    read::{Columns, ReadSettings},
};
use recaption_onnx::runtime::{Devices, Execution, Provider};
use recaption_schemas::Blend;
use recaption_store::{RetryPolicy, StoreSettings};

use super::{
    CaptionConfig, Layers, ScoreConfig,
    scoring::build_filter,
    sections::{
        AUTO_COLUMN, BlendSection, FetchSection, InputSection, ModelSection, OutputFormatName, OutputSection,
        RunSection, Settings, StoreSection,
    },
};

/// Images captioned together by one copy of the model. Larger batches win little on CPUs and cost memory.
pub const DEFAULT_BATCH_SIZE: usize = 32;
/// The same on a GPU, where a step of few rows waits for memory alone: what the default `run.cache_bytes` holds of a
/// coca_ViT-L-14 in half precision, 15 MB an image.
pub const GPU_BATCH_SIZE: usize = 256;

/// Keys that were set explicitly, with their values as TOML writes them; secrets of URLs are left out.
pub type ExplicitSettings = BTreeMap<String, String>;

/// The models, and the hardware that they run on.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Model folder.
    pub captioner: PathBuf,
    /// Model folder of the scorer; `None` is the captioner.
    pub scorer: Option<PathBuf>,
    /// The execution provider that was asked for.
    pub provider: Provider,
    /// The GPUs that were asked for.
    pub devices: Devices,
    /// File, variable or flag that set the GPUs; `None` where the default holds.
    pub devices_origin: Option<String>,
    /// Whether decoding steps on a GPU are captured as CUDA graphs and replayed.
    pub cuda_graphs: bool,
    /// Copies of the model; `None` chooses by its size.
    pub sessions: Option<usize>,
}

/// What is read, and how.
#[derive(Clone, Debug)]
pub struct InputConfig {
    /// Patterns of shards.
    pub shards: Vec<String>,
    /// Limits of images, and their orientation.
    pub decode: DecodeOptions,
    /// How shards are read.
    pub read: Arc<ReadSettings>,
    /// Shards read concurrently, at least 1.
    pub concurrent_shards: usize,
    /// Encoded image bytes held between reading and decoding.
    pub buffer_bytes: usize,
}

/// What is written, and where.
#[derive(Clone, Debug)]
pub struct OutputConfig {
    /// Folder or bucket prefix.
    pub url: String,
    /// Whether rows carry the stored image.
    pub embed_images: bool,
    /// Whether a webdataset is written beside the tables.
    pub webdataset: bool,
    /// The blend of synthetic and original captions in the `text` column, if there is one.
    pub blend: Option<Blend>,
}

impl OutputConfig {
    /// Returns whether stored images are needed for the output.
    #[must_use]
    pub fn carries_images(&self) -> bool {
        self.embed_images || self.webdataset
    }
}

/// Seed, threads, memory and leases of a run.
#[derive(Clone, Debug)]
pub struct ResourceConfig {
    /// Seed of sampling.
    pub seed: u64,
    /// Threads, at least 1.
    pub threads: usize,
    /// Images captioned together; `None` depends on the execution provider.
    pub batch_size: Option<usize>,
    /// Bytes for attention caches, all copies of the model together.
    pub cache_bytes: u64,
    /// Share of failed samples beyond which the run stops, 0 to 1.
    pub max_failure_ratio: f64,
    /// Whether a GPU is compared with the CPU before a run begins.
    pub self_test: bool,
    /// Lease of a lock in a bucket, seconds.
    pub lock_seconds: u64,
    /// Lease of claimed shards; `None` shares no shards among workers.
    pub claim_lease: Option<Duration>,
    /// Time that shards in flight have after a request to stop; `None` waits for them.
    pub grace: Option<Duration>,
}

/// Who may watch a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonitoringConfig {
    /// Host and port at which metrics are served.
    pub address: Option<String>,
    /// File that takes the metrics when the run ends.
    pub file: Option<PathBuf>,
}

/// The validated configuration of `recaption run`.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// `[model]`
    pub model: ModelConfig,
    /// `[caption]`
    pub caption: CaptionConfig,
    /// `[score]`
    pub score: ScoreConfig,
    /// `[filter]` and `[rules]`
    pub filter: Filter,
    /// `[input]` and `[fetch]`
    pub input: InputConfig,
    /// `[output]`
    pub output: OutputConfig,
    /// `[run]`
    pub resources: ResourceConfig,
    /// Metrics, of `[run]`
    pub monitoring: MonitoringConfig,
    /// `[store]`
    pub stores: StoreSettings,
    /// What was set, for the record of the run.
    pub explicit_settings: ExplicitSettings,
}

impl RunConfig {
    /// Validates what was set, for a run.
    ///
    /// # Errors
    /// A required key that is missing, a combination that makes no sense.
    pub fn build(layers: &Layers) -> Result<Self, ConfigError> {
        Self::build_requiring(layers, &["model.captioner", "output.url", "input.shards"])
    }

    /// Validates what was set, for a command that needs these keys alone: paths and patterns of others may be empty.
    ///
    /// # Errors
    /// As [`RunConfig::build`].
    pub fn build_requiring(layers: &Layers, required: &[&str]) -> Result<Self, ConfigError> {
        required.iter().try_for_each(|name| layers.require(name))?;
        let settings: Settings = layers.extract_partial()?;
        Ok(Self {
            caption: CaptionConfig::build(&settings.caption, layers)?,
            score: ScoreConfig::build(&settings.score, layers)?,
            filter: build_filter(&settings.filter, &settings.score, settings.rules, layers)?,
            input: InputConfig {
                decode: decode_options(&settings.input),
                concurrent_shards: settings.input.concurrent_shards,
                buffer_bytes: settings.input.buffer_bytes,
                shards: settings.input.shards.0.clone(),
                read: Arc::new(read_settings(settings.input, settings.fetch, settings.run.seed, layers)?),
            },
            model: model(settings.model, layers),
            output: output(settings.output, &settings.blend, settings.run.seed, layers)?,
            resources: resources(&settings.run),
            monitoring: monitoring(&settings.run, layers)?,
            stores: stores(&settings.store),
            explicit_settings: layers.describe(),
        })
    }

    /// Images captioned together by one copy of the model.
    #[must_use]
    pub fn batch_size(&self, execution: Execution) -> usize {
        let default = if execution.is_gpu() { GPU_BATCH_SIZE } else { DEFAULT_BATCH_SIZE };
        self.resources.batch_size.unwrap_or(default)
    }
}

impl ModelConfig {
    /// Rejects the CPU where a GPU was named and `auto` found none that works.
    ///
    /// # Errors
    /// [`RunConfig`]'s `model.device` was set, and `executions`, what `auto` came to, use no GPU.
    pub fn refuse_unwanted_cpu(&self, executions: &[Execution]) -> Result<(), ConfigError> {
        let Some(origin) = &self.devices_origin else { return Ok(()) };
        if self.provider != Provider::Auto || executions.iter().any(|execution| execution.is_gpu()) {
            return Ok(());
        }
        let what = format!(
            "`model.device` = {} asks for a GPU, and no GPU can be used here; leave it out to use the CPU, or add \
             `--provider cuda` to see what is missing",
            self.devices
        );
        Err(ConfigError::new(origin, what))
    }
}

fn model(section: ModelSection, layers: &Layers) -> ModelConfig {
    ModelConfig {
        captioner: PathBuf::from(section.captioner),
        scorer: Some(section.scorer).filter(|dir| !dir.is_empty()).map(PathBuf::from),
        provider: section.provider.into(),
        devices: section.device.0,
        devices_origin: layers.explicit_origin("model.device"),
        cuda_graphs: section.cuda_graphs,
        sessions: Some(section.sessions).filter(|n| *n > 0),
    }
}

fn output(
    section: OutputSection,
    blend: &BlendSection,
    seed: u64,
    layers: &Layers,
) -> Result<OutputConfig, ConfigError> {
    let webdataset = match section.format {
        OutputFormatName::Parquet => false,
        OutputFormatName::Webdataset => true,
        other @ (OutputFormatName::Sidecar | OutputFormatName::Hf) => {
            let what = format!(
                "a run writes no format \"{0}\"; write Parquet and use `recaption convert OUT --to {0}`",
                other.as_str()
            );
            return Err(layers.error("output.format", what));
        }
    };
    let blend = blend.synthetic.and_then(|synthetic| Blend::new(synthetic, seed));
    Ok(OutputConfig { url: section.url, embed_images: section.images.into(), webdataset, blend })
}

fn resources(section: &RunSection) -> ResourceConfig {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let positive = |seconds: u64| Some(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs);
    ResourceConfig {
        seed: section.seed,
        threads: section.threads.unwrap_or(cores),
        batch_size: section.batch_size,
        cache_bytes: section.cache_bytes,
        max_failure_ratio: section.max_failure_ratio,
        self_test: section.self_test,
        lock_seconds: section.lock_seconds,
        claim_lease: positive(section.claim_seconds),
        grace: positive(section.grace_seconds),
    }
}

fn monitoring(section: &RunSection, layers: &Layers) -> Result<MonitoringConfig, ConfigError> {
    let (address, file) = (&section.metrics_addr, &section.metrics_file);
    let is_address = address.rsplit_once(':').is_some_and(|(host, port)| {
        let is_bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && !is_bare_ipv6 && port.parse::<u16>().is_ok()
    });
    if !address.is_empty() && !is_address {
        let what = format!("`{address}` is not HOST:PORT, as 127.0.0.1:9464 or [::1]:9464 is");
        return Err(layers.error("run.metrics_addr", what));
    }
    if !file.is_empty() && !file.ends_with(".prom") {
        let what = format!("`{file}` does not end in .prom, and node exporter reads no other files");
        return Err(layers.error("run.metrics_file", what));
    }
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Ok(MonitoringConfig { address: given(address), file: given(file).map(PathBuf::from) })
}

fn decode_options(section: &InputSection) -> DecodeOptions {
    DecodeOptions {
        max_pixels: section.max_pixels,
        min_side: section.min_side,
        budget_bytes: section.decode_bytes,
        budget_setting: "input.decode_bytes",
        exif_orientation: section.exif_orientation,
    }
}

fn read_settings(
    section: InputSection,
    fetch: FetchSection,
    seed: u64,
    layers: &Layers,
) -> Result<ReadSettings, ConfigError> {
    let column = |name: String| Some(name).filter(|name| name != AUTO_COLUMN);
    let mut settings = ReadSettings {
        format: section.format.into(),
        columns: Columns {
            image: column(section.image_column),
            caption: column(section.caption_column),
            url: column(section.url_column),
            key: column(section.key_column),
        },
        fetcher: Some(fetcher(fetch, section.max_member_bytes, layers)?),
        rows_per_shard: section.rows_per_shard,
        image_suffixes: section.image_suffixes.0,
        setting_names: SettingNames {
            format: "input.format",
            image_suffixes: "input.image_suffixes",
            image_column: "input.image_column",
            caption_column: "input.caption_column",
            url_column: "input.url_column",
            key_column: "input.key_column",
        },
        ..ReadSettings::default()
    };
    settings.tar.max_member_bytes = section.max_member_bytes;
    settings.captions.pick = section.caption_pick.into();
    settings.captions.seed = seed;
    Ok(settings)
}

/// What fetches the images of URL lists; none may be larger than `max_bytes`.
fn fetcher(section: FetchSection, max_bytes: u64, layers: &Layers) -> Result<Fetcher, ConfigError> {
    let settings = FetchSettings {
        timeout: Duration::from_secs_f64(section.timeout_seconds),
        retries: section.retries,
        max_bytes: section.max_bytes.min(max_bytes),
        concurrency: section.concurrency,
        per_host: section.per_host,
        user_agent: section.user_agent,
        allow_private: section.allow_private,
        allow_private_setting: "fetch.allow_private",
        opt_out: section.opt_out.0,
        ..FetchSettings::default()
    };
    Fetcher::new(settings).map_err(|what| layers.error("fetch.user_agent", what))
}

fn stores(section: &StoreSection) -> StoreSettings {
    let retry = RetryPolicy { retries: section.retries, ..StoreSettings::default().retry };
    StoreSettings {
        retry,
        timeout: Duration::from_secs_f64(section.timeout_seconds),
        min_bytes_per_second: section.min_bytes_per_second,
    }
}

/// Timeouts and retries of stores, for commands without a configuration file: defaults and environment.
///
/// # Errors
/// A variable that sets no key, or to a value that the key does not take.
pub fn environment_store_settings() -> Result<StoreSettings, ConfigError> {
    let mut layers = Layers::default();
    layers.add_process_environment()?;
    Ok(stores(&layers.extract_partial()?.store))
}
