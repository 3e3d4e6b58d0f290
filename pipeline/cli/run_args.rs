//! Arguments of commands that are configured: each flag sets a key, whose description is its help text.

use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use recaption_output::second_pass::Fraction;
use toml::Value;

use super::array::{ArrayArgs, Exclusive};
use crate::{
    config::{ConfigError, Layers, help},
    run::RunOptions,
};

/// Suffixes of files that a shell's expansion of an unquoted pattern leaves as further arguments.
const INPUT_SUFFIXES: &[&str] = &[
    "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "tar", "tgz", "gz", "zst",
    "parquet", "csv", "tsv", "jsonl", "ndjson", "txt",
];

/// Where the model runs.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ProviderArgs {
    #[arg(long, value_name = "PROVIDER", help = help("model.provider"))]
    pub provider: Option<String>,
    #[arg(long, value_name = "N", help = help("model.device"))]
    pub device: Option<String>,
}

impl ProviderArgs {
    /// Adds the flags as a layer.
    ///
    /// # Errors
    /// A value that the key does not take.
    pub(super) fn add_to(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        set(layers, "model.provider", self.provider.as_ref(), "--provider")?;
        set(layers, "model.device", self.device.as_ref(), "--device")
    }
}

/// The configuration of a run. Flags override the environment, which overrides the file.
#[derive(Debug, Default, clap::Args)]
pub(super) struct SettingsArgs {
    /// Configuration file, TOML. `recaption config reference` lists its keys.
    #[arg(value_name = "CONFIG.toml")]
    pub config: Option<PathBuf>,
    /// What a shell made of an unquoted pattern; only there to be refused with an explanation.
    #[arg(hide = true)]
    pub surplus: Vec<PathBuf>,
    #[arg(long, value_name = "URL", help = format!("{}. May be repeated", help("input.shards")))]
    pub input: Vec<String>,
    #[arg(long, value_name = "MODEL", help = help("model.captioner"))]
    pub model: Option<String>,
    #[arg(long, value_name = "URL", help = help("output.url"))]
    pub output: Option<String>,
    #[arg(long, value_name = "MODEL", help = help("model.scorer"))]
    pub scorer: Option<String>,
    #[command(flatten)]
    pub provider: ProviderArgs,
    #[arg(long, value_name = "X", allow_negative_numbers = true, help = help("filter.min_similarity"))]
    pub min_similarity: Option<f64>,
    #[arg(long, value_name = "N", help = help("run.threads"))]
    pub threads: Option<i64>,
    #[arg(long, value_name = "N", help = help("run.batch_size"))]
    pub batch_size: Option<i64>,
    #[arg(long, value_name = "HOST:PORT", help = help("run.metrics_addr"))]
    pub metrics_addr: Option<String>,
    #[arg(long, value_name = "PATH", help = help("run.metrics_file"))]
    pub metrics_file: Option<String>,
    /// Sets any configuration key; the value is TOML, or else a string. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// `recaption run`.
#[derive(Debug, Default, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Replace an output that was made with another configuration.
    #[arg(long)]
    pub overwrite: bool,
    /// Skip shards not modified since: 2026-11-24, 2026-11-24T06:00:00Z, or an age such as 90m, 36h, 7d.
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<DateTime<Utc>>,
    /// Delete the rows of shards that are no longer among the inputs.
    #[arg(long)]
    pub retire: bool,
    /// Exit with code 0 at once while another run with --lock holds the lock of the same output.
    #[arg(long)]
    pub lock: bool,
    /// Begin shards, in an order by run.seed, until N samples were read; the same command continues with the next shards.
    #[arg(long, value_name = "N", conflicts_with = "overwrite", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Process this share of the shards, chosen by run.seed; a larger share includes a smaller one.
    #[arg(long, value_name = "FRACTION", conflicts_with = "overwrite")]
    pub sample: Option<Fraction>,
    #[command(flatten)]
    pub array: ArrayArgs,
}

/// `recaption retry`: configured as the last run over the same output was.
#[derive(Debug, clap::Args)]
pub(super) struct RetryArgs {
    /// Output of `recaption run`: folder or bucket prefix.
    #[arg(value_name = "OUT")]
    pub output: String,
    /// Shards, where those of the last run had secrets in their URLs, which its record does not hold. May be repeated.
    #[arg(long, value_name = "URL")]
    pub input: Vec<String>,
    /// Sets any configuration key; the value is TOML, or else a string. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Exit with code 0 at once while another run with --lock holds the lock of the same output.
    #[arg(long)]
    pub lock: bool,
}

impl RunArgs {
    /// How the run treats what is there. In an array job, the first task alone removes what has no input.
    ///
    /// # Errors
    /// As [`ArrayArgs::resolve`].
    pub(super) fn options(&self) -> Result<RunOptions, ConfigError> {
        let task = self.array.resolve(Exclusive { limit: self.limit.is_some(), lock: self.lock })?;
        Ok(RunOptions {
            overwrite: self.overwrite,
            since: self.since,
            retire: self.retire && task.is_none_or(|task| task.index == 0),
            lock: self.lock,
            retry: false,
            limit: self.limit,
            sample: self.sample,
            task,
        })
    }

    /// Reads all layers.
    ///
    /// # Errors
    /// As [`SettingsArgs::layers`].
    pub(super) fn layers(&self) -> Result<Layers, ConfigError> {
        self.settings.layers()
    }
}

impl SettingsArgs {
    /// Reads all layers: file, environment, flags. A flag of its own wins over `--set`.
    ///
    /// # Errors
    /// A file that is no configuration, an unknown key, a value that the key does not take.
    pub(super) fn layers(&self) -> Result<Layers, ConfigError> {
        let mut layers = Layers::default();
        if let Some(path) = &self.config {
            check_positionals(path, &self.surplus)?;
            layers.add_file(path)?;
        }
        layers.add_process_environment()?;
        for assignment in &self.set {
            layers.add_assignment(assignment)?;
        }
        set_inputs(&mut layers, &self.input)?;
        set(&mut layers, "model.captioner", self.model.as_ref(), "--model")?;
        set(&mut layers, "output.url", self.output.as_ref(), "--output")?;
        set(&mut layers, "model.scorer", self.scorer.as_ref(), "--scorer")?;
        set(&mut layers, "run.threads", self.threads.as_ref(), "--threads")?;
        set(&mut layers, "run.batch_size", self.batch_size.as_ref(), "--batch-size")?;
        set(&mut layers, "filter.min_similarity", self.min_similarity.as_ref(), "--min-similarity")?;
        set(&mut layers, "run.metrics_addr", self.metrics_addr.as_ref(), "--metrics-addr")?;
        set(&mut layers, "run.metrics_file", self.metrics_file.as_ref(), "--metrics-file")?;
        self.provider.add_to(&mut layers)?;
        Ok(layers)
    }
}

/// Sets a key from a flag that may not be there.
pub(super) fn set<T: Clone + Into<Value>>(
    layers: &mut Layers,
    key: &str,
    value: Option<&T>,
    flag: &str,
) -> Result<(), ConfigError> {
    value.map_or(Ok(()), |value| layers.set(key, value.clone(), flag))
}

/// Sets the shards from `--input`, if it was given.
pub(super) fn set_inputs(layers: &mut Layers, patterns: &[String]) -> Result<(), ConfigError> {
    if patterns.is_empty() {
        return Ok(());
    }
    let patterns: Vec<Value> = patterns.iter().cloned().map(Into::into).collect();
    layers.set("input.shards", patterns, "--input")
}

/// Refuses what cannot be a configuration file and is most likely an input.
fn check_positionals(config: &Path, surplus: &[PathBuf]) -> Result<(), ConfigError> {
    let shown = config.display();
    let advice = "quote patterns, so that the shell does not expand them: --input 'photos/*.jpg'";
    if let Some(second) = surplus.first() {
        let what =
            format!("a run takes one configuration file, and `{}` is a second; {advice}", second.display());
        return Err(ConfigError::new(shown.to_string(), what));
    }
    let suffix = config.extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
    let is_input = suffix.is_some_and(|suffix| INPUT_SUFFIXES.contains(&suffix.as_str()));
    let what = if config.to_string_lossy().contains("://") {
        format!("a URL where a configuration file is expected; give inputs as --input {shown}")
    } else if config.is_dir() {
        format!("a folder where a configuration file is expected; give inputs as --input {shown}")
    } else if is_input {
        format!("an input where a configuration file is expected; give inputs as --input, and {advice}")
    } else {
        return Ok(());
    };
    Err(ConfigError::new(shown.to_string(), what))
}

/// A time in the past: with one in the future every shard would be skipped.
fn since(text: &str) -> Result<DateTime<Utc>, String> {
    let time = time_or_age(text)?;
    if time > Utc::now() {
        return Err(format!("{} lies in the future, and no shard can have changed since", time.to_rfc3339()));
    }
    Ok(time)
}

fn time_or_age(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    if let Some(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|d| d.and_hms_opt(0, 0, 0)) {
        return Ok(day.and_utc());
    }
    let unit = text.chars().last().and_then(|unit| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        'w' => Some(7 * 86_400),
        _ => None,
    });
    let age = unit.and_then(|unit| text[..text.len() - 1].parse::<i64>().ok()?.checked_mul(unit));
    age.and_then(TimeDelta::try_seconds)
        .and_then(|age| Utc::now().checked_sub_signed(age))
        .ok_or_else(|| "expected 2026-11-24, 2026-11-24T06:00:00Z, or an age such as 90m, 36h, 7d".to_owned())
}
