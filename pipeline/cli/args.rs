//! Arguments as they are typed. Names and meanings are a contract.

use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use clap::{Parser, Subcommand, ValueEnum};

use recaption_output::second_pass::Fraction;

use super::logging::{FormatArg, LevelArg};
use crate::{
    config::{ConfigError, Layers},
    run::RunOptions,
    scenes::{MAX_SAMPLES, MAX_SHARDS},
};

/// Recaptions image datasets with a CoCa on ONNX Runtime.
#[derive(Debug, Parser)]
#[command(name = "recaption", version, about, arg_required_else_help = true)]
pub struct Args {
    /// Log lines for people or for machines; by default text on a terminal and JSON otherwise. Logs go to stderr.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<FormatArg>,
    /// Least severity that is logged.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log_level: LevelArg,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Draw scenes, caption them with the bundled captioners, and show what became of the alt texts.
    Demo(DemoArgs),
    /// Write webdataset shards of drawn scenes, whose captions are exactly known.
    Scenes(ScenesArgs),
    /// Turn an open_clip checkpoint into ONNX graphs.
    Export(ExportArgs),
    /// Compare an exported model with reference tensors.
    Verify(VerifyArgs),
    /// Caption shards.
    Run(RunArgs),
    /// Tell what of an output is done, pending and failed, and what was rejected.
    Status(StatusArgs),
    /// Do once more what failed: shards, and samples that were rejected for a reason that may pass.
    Retry(RetryArgs),
    /// Keep the best rows of a finished output, in a new dataset.
    Filter(FilterArgs),
    /// Caption single images.
    Caption(CaptionArgs),
    /// Measure captions against the shards' own: CIDEr-D, BLEU, ROUGE-L, retrieval, similarity.
    Eval(EvalArgs),
    /// Describe a model folder or an output.
    Inspect(InspectArgs),
    /// Train a captioner: hands over to the program `recaption-finetune`, with all arguments as they are.
    #[command(
        disable_help_flag = true,
        override_usage = "recaption finetune [ARGUMENTS OF recaption-finetune]..."
    )]
    Finetune,
}

/// `recaption demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Where shards, models, outputs and the page go.
    #[arg(long, default_value = "recaption-demo")]
    pub dir: PathBuf,
    /// Scenes to draw.
    #[arg(long, default_value_t = crate::demo::DEFAULT_SCENES, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub scenes: u64,
    /// Seed of the scenes.
    #[arg(long, default_value_t = crate::demo::DEFAULT_SEED)]
    pub seed: u64,
}

/// Texts of scenes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TextArg {
    /// What the web would say: a quarter says nothing of the picture.
    Alt,
    /// The main subject: "an orange star".
    Short,
    /// Every object with size, colour, shape and place, and the background.
    Descriptive,
}

/// `recaption scenes`. The same arguments write the same bytes.
#[derive(Debug, clap::Args)]
pub struct ScenesArgs {
    /// Folder of the shards, `00000.tar` and so on; an earlier shard of scenes there is replaced.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Shards to write.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: u32,
    /// Scenes in each.
    #[arg(long, value_name = "M", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SAMPLES)))]
    pub samples: u32,
    /// Number of the first shard: a data set can be written piece by piece.
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..i64::from(MAX_SHARDS)))]
    pub first: u32,
    /// Seed: another one is another data set.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// What `KEY.txt` says.
    #[arg(long, value_name = "TEXT", default_value = "alt")]
    pub caption: TextArg,
}

/// Precision of exported weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PrecisionArg {
    /// Single precision: exact.
    Fp32,
    /// Half precision: for GPUs.
    Fp16,
    /// Linear layers in eight bits, for CPUs with VNNI; the rest is single.
    Int8,
}

/// `recaption export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Directory with open_clip_config.json, open_clip_model.safetensors and tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// Model folder to write; an older export there is replaced.
    #[arg(long, value_name = "MODEL")]
    pub out: PathBuf,
    /// Precision of weights and arithmetic.
    #[arg(long, default_value = "fp32")]
    pub precision: PrecisionArg,
}

/// What computes.
#[derive(Debug, Default, clap::Args)]
pub struct ProviderArgs {
    /// Execution provider (model.provider): auto, cpu, cuda or tensorrt. `auto` is cuda where everything for it is there.
    #[arg(long, value_name = "PROVIDER")]
    pub provider: Option<String>,
    /// GPU numbers (model.device): 0, 0,1,2 or all. A run puts a captioner on each; other commands use the first.
    #[arg(long, value_name = "N")]
    pub device: Option<String>,
}

impl ProviderArgs {
    /// Adds the flags as a layer.
    ///
    /// # Errors
    /// A value that the key does not take.
    pub fn add_to(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        if let Some(provider) = &self.provider {
            layers.set("model.provider", provider.clone(), "--provider")?;
        }
        if let Some(device) = &self.device {
            layers.set("model.device", device.clone(), "--device")?;
        }
        Ok(())
    }
}

/// `recaption verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Model folder.
    pub model: PathBuf,
    /// Reference tensors, with their settings in a .json beside them.
    pub golden: PathBuf,
    /// What computes.
    #[command(flatten)]
    pub provider: ProviderArgs,
}

/// `recaption caption`.
#[derive(Debug, clap::Args)]
pub struct CaptionArgs {
    /// Model folder.
    pub model: PathBuf,
    /// Model folder that judges similarity; by default the captioner.
    #[arg(long, value_name = "MODEL")]
    pub scorer: Option<PathBuf>,
    /// Image files.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// What computes.
    #[command(flatten)]
    pub provider: ProviderArgs,
    /// Any configuration key, as a TOML value. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// `recaption eval`.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Model folder.
    pub model: PathBuf,
    /// Shards with reference captions: URLs, paths, ranges, globs, folders.
    #[arg(required = true)]
    pub shards: Vec<String>,
    /// Model folder that judges similarity and retrieval; by default the captioner.
    #[arg(long, value_name = "MODEL")]
    pub scorer: Option<PathBuf>,
    /// What computes.
    #[command(flatten)]
    pub provider: ProviderArgs,
    /// Any configuration key, as a TOML value. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// A column of similarities.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum ScoreArg {
    /// Image and chosen caption.
    Similarity,
    /// Image and original caption; rows without one are never selected.
    OrgSimilarity,
}

/// Where `recaption filter` cuts: exactly one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct CutArgs {
    /// Keep this share of the rows that have a score, rounded up; rows equal to the last of them stay too.
    #[arg(long, value_name = "FRACTION")]
    pub keep_top: Option<Fraction>,
    /// Keep rows of at least this similarity, -1 to 1.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = similarity)]
    pub min_similarity: Option<f32>,
}

/// `recaption filter`. Reads no images and loads no model; the output that it reads is never changed.
#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    /// Output of `recaption run`, or of an earlier `recaption filter`: folder or bucket prefix.
    #[arg(value_name = "OUT")]
    pub output: String,
    /// Where to cut.
    #[command(flatten)]
    pub cut: CutArgs,
    /// The column that decides.
    #[arg(long, value_name = "COLUMN", default_value = "similarity")]
    pub by: ScoreArg,
    /// Where the new dataset goes: folder or bucket prefix outside OUT. Rows that are left out become its rejects.
    #[arg(long, value_name = "NEW")]
    pub to: String,
    /// Keep all rows, and add a column of this name that is true where a row is selected.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub column: Option<String>,
    /// Replace what another pass or run left at NEW.
    #[arg(long)]
    pub overwrite: bool,
}

fn similarity(text: &str) -> Result<f32, String> {
    let number = text.parse::<f64>().ok().filter(|n| (-1.0..=1.0).contains(n));
    number.map(|n| n as f32).ok_or_else(|| "expected a number from -1 to 1".to_owned())
}

/// `recaption inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Model folder or output.
    pub path: String,
}

/// `recaption run`. Flags override the environment, which overrides the file.
#[derive(Debug, Default, clap::Args)]
pub struct RunArgs {
    /// Configuration file.
    #[arg(value_name = "CONFIG.toml")]
    pub config: Option<PathBuf>,
    /// Shards: URL, path, {00000..00099} range, glob or folder. May be repeated.
    #[arg(long, value_name = "URL")]
    pub input: Vec<String>,
    /// Model folder (model.captioner).
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Output folder or bucket prefix (output.url).
    #[arg(long, value_name = "URL")]
    pub output: Option<String>,
    /// Model folder that judges similarity (model.scorer).
    #[arg(long, value_name = "MODEL")]
    pub scorer: Option<String>,
    /// What computes.
    #[command(flatten)]
    pub provider: ProviderArgs,
    /// Reject captions below this similarity (filter.min_similarity).
    #[arg(long, allow_negative_numbers = true)]
    pub min_similarity: Option<f64>,
    /// Threads (run.threads).
    #[arg(long)]
    pub threads: Option<i64>,
    /// Images decoded together (run.batch_size).
    #[arg(long)]
    pub batch_size: Option<i64>,
    /// Any configuration key, as a TOML value. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Replace an output that was made with another configuration.
    #[arg(long)]
    pub overwrite: bool,
    /// Leave shards alone that did not change since: 2026-11-24, 2026-11-24T06:00:00Z, or an age such as 90m, 36h, 7d.
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<DateTime<Utc>>,
    /// Remove the rows of shards that are not among the inputs any more.
    #[arg(long)]
    pub retire: bool,
    /// Do nothing, with exit code 0, while another run with --lock works on the same output.
    #[arg(long)]
    pub lock: bool,
}

/// A time, or an age.
/// A time in the past: with one in the future every shard would be left alone.
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

/// `recaption status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Output of `recaption run`: folder or bucket prefix.
    #[arg(value_name = "OUT")]
    pub output: String,
    /// Read all parts and compare their sums with the commit records'.
    #[arg(long)]
    pub verify: bool,
}

/// `recaption retry`: configured as the last run over the same output was.
#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    /// Output of `recaption run`: folder or bucket prefix.
    #[arg(value_name = "OUT")]
    pub output: String,
    /// Shards, where the last run's had secrets in their URLs, which its record does not hold. May be repeated.
    #[arg(long, value_name = "URL")]
    pub input: Vec<String>,
    /// Any configuration key, as a TOML value. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Do nothing, with exit code 0, while another run with --lock works on the same output.
    #[arg(long)]
    pub lock: bool,
}

impl RunArgs {
    /// How the run treats what is there.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            overwrite: self.overwrite,
            since: self.since,
            retire: self.retire,
            lock: self.lock,
            retry: false,
        }
    }

    /// Adds the flags as the last layer. A flag of its own wins over `--set`.
    ///
    /// # Errors
    /// A value that the key does not take.
    pub fn add_to(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        for assignment in &self.set {
            layers.add_assignment(assignment)?;
        }
        if !self.input.is_empty() {
            let patterns: Vec<toml::Value> = self.input.iter().cloned().map(Into::into).collect();
            layers.set("input.shards", patterns, "--input")?;
        }
        let texts = [
            ("model.captioner", &self.model, "--model"),
            ("output.url", &self.output, "--output"),
            ("model.scorer", &self.scorer, "--scorer"),
        ];
        for (key, value, flag) in texts {
            if let Some(value) = value {
                layers.set(key, value.clone(), flag)?;
            }
        }
        let numbers =
            [("run.threads", self.threads, "--threads"), ("run.batch_size", self.batch_size, "--batch-size")];
        for (key, value, flag) in numbers {
            if let Some(value) = value {
                layers.set(key, value, flag)?;
            }
        }
        self.provider.add_to(layers)?;
        if let Some(value) = self.min_similarity {
            layers.set("filter.min_similarity", value, "--min-similarity")?;
        }
        Ok(())
    }
}
