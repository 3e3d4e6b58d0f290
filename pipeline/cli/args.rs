//! The command line. Names and meanings are a contract.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use recaption_output::second_pass::Fraction;
use recaption_store::HubModel;

use super::{
    convert::ConvertArgs,
    finalize::FinalizeArgs,
    logging::{FormatArg, LevelArg},
    plan::PlanArgs,
    report::ReportArgs,
    run_args::{ProviderArgs, RetryArgs, RunArgs, SettingsArgs},
    worker::WorkerArgs,
};
use crate::{
    config::help,
    pull::CheckpointSource,
    scenes::{MAX_SAMPLES, MAX_SHARDS},
};

/// Recaptions image datasets with a CoCa on ONNX Runtime.
#[derive(Debug, Parser)]
#[command(name = "recaption", version, about, arg_required_else_help = true)]
pub(super) struct Args {
    /// Format of log lines, which go to stderr; by default text on a terminal and JSON otherwise.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<FormatArg>,
    /// Lowest severity that is logged.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log_level: LevelArg,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The command.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Draw scenes, caption them with the bundled captioners, and show the captions beside the alt texts.
    Demo(DemoArgs),
    /// Write webdataset shards of drawn scenes, whose exact captions are known.
    Scenes(ScenesArgs),
    /// Download an open_clip checkpoint from the Hugging Face hub.
    Pull(PullArgs),
    /// Turn an open_clip checkpoint into ONNX graphs.
    Export(ExportArgs),
    /// Compare an exported model with reference tensors.
    Verify(VerifyArgs),
    /// Caption a sample of the shards, show it, and write nothing to the output.
    Preview(PreviewArgs),
    /// Show what a run would do, take and cost, and all that would make it fail.
    Plan(Box<PlanArgs>),
    /// Caption shards.
    Run(RunArgs),
    /// Caption the shards that another program names, one JSON object per line on stdin, and answer on stdout.
    Worker(Box<WorkerArgs>),
    /// Show what of an output is done, pending and failed, and what was rejected.
    Status(StatusArgs),
    /// Retry what failed: shards, and samples that were rejected for a transient reason.
    Retry(RetryArgs),
    /// Check that all shards are committed, sum up all records, clean up after dead workers, and write the report.
    Finalize(FinalizeArgs),
    /// Select the best rows of a finished output into a new dataset.
    Filter(FilterArgs),
    /// Show an output as one HTML page: sample, statistics, rejects, and a threshold to choose.
    Report(ReportArgs),
    /// Turn a finished output into what trainers load: webdataset, sidecars, Hugging Face folders, Parquet.
    Convert(ConvertArgs),
    /// Caption single images.
    Caption(CaptionArgs),
    /// Compare captions with the reference captions of shards: CIDEr-D, BLEU, ROUGE-L, retrieval, similarity.
    Eval(EvalArgs),
    /// Describe a model folder, a checkpoint or an output.
    Inspect(InspectArgs),
    /// Print the reference of all configuration keys, their JSON schema, or the effective values of a file.
    Config(ConfigArgs),
    /// Train a captioner; passes all arguments on to the program `recaption-finetune`.
    #[command(
        disable_help_flag = true,
        override_usage = "recaption finetune [ARGUMENTS OF recaption-finetune]..."
    )]
    Finetune,
}

/// `recaption demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Folder of the shards, models, outputs and the report page.
    #[arg(long, default_value = "recaption-demo")]
    pub dir: PathBuf,
    /// Number of scenes to draw.
    #[arg(long, default_value_t = crate::demo::DEFAULT_SCENES, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub scenes: u64,
    /// Seed of the scenes.
    #[arg(long, default_value_t = crate::demo::DEFAULT_SEED)]
    pub seed: u64,
}

/// `recaption preview`. Configured as a run.
#[derive(Debug, clap::Args)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Number of samples, spread over all shards.
    #[arg(long, value_name = "N", default_value_t = crate::preview::DEFAULT_SAMPLES, value_parser = clap::value_parser!(u64).range(1..=crate::preview::MAX_SAMPLES))]
    pub samples: u64,
    /// Folder of the page and of preview.json; an earlier preview there is replaced.
    #[arg(long, default_value = "recaption-preview")]
    pub dir: PathBuf,
    /// Seed of the sample; by default run.seed.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
}

/// Texts of scenes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum TextArg {
    /// Like alt texts of the web; a quarter does not describe the image.
    Alt,
    /// The main subject: "an orange star".
    Short,
    /// Every object with size, colour, shape and place, and the background.
    Descriptive,
    /// The descriptive caption, and captions of the same image that one change made false: colours or shapes swapped, another
    /// colour, shape or place, an object more. Keys end with `-true` or the change.
    Pairs,
}

/// `recaption scenes`. The same arguments write the same bytes.
#[derive(Debug, clap::Args)]
pub(super) struct ScenesArgs {
    /// Folder of the shards, `00000.tar` and so on; an earlier shard of scenes there is replaced.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Number of shards.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: u32,
    /// Number of scenes in each shard.
    #[arg(long, value_name = "M", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SAMPLES)))]
    pub samples: u32,
    /// Number of the first shard, so that a dataset can be written in pieces.
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..i64::from(MAX_SHARDS)))]
    pub first: u32,
    /// Seed of the dataset.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Which caption `KEY.txt` holds.
    #[arg(long, value_name = "TEXT", default_value = "alt")]
    pub caption: TextArg,
}

/// Precision of exported weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PrecisionArg {
    /// Single precision.
    Fp32,
    /// Half precision, for GPUs.
    Fp16,
    /// Linear layers in 8 bits, for CPUs with VNNI; the rest in single precision.
    Int8,
}

/// `recaption export`.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Directory with open_clip_config.json, the weights (open_clip_model.safetensors or open_clip_pytorch_model.bin) and the
    /// tokenizer, or hf://ORG/NAME[@REVISION], which is downloaded.
    #[arg(long, value_name = "DIR|hf://ORG/NAME", value_parser = CheckpointSource::parse)]
    pub checkpoint: CheckpointSource,
    /// Model folder to write; replaces an older export.
    #[arg(long, value_name = "MODEL")]
    pub out: PathBuf,
    /// Precision of weights and arithmetic.
    #[arg(long, default_value = "fp32")]
    pub precision: PrecisionArg,
}

/// `recaption pull`. Files go to the cache that huggingface_hub uses too, and are not downloaded twice.
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// Model on the hub; the revision is a branch, tag or commit.
    #[arg(value_name = "ORG/NAME[@REVISION]")]
    pub model: HubModel,
    /// Also write the files to this directory.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `recaption verify`.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Model folder.
    pub model: PathBuf,
    /// Reference tensors, NAME.safetensors, with their settings in NAME.json beside it.
    pub golden: PathBuf,
    #[command(flatten)]
    pub provider: ProviderArgs,
}

/// `recaption caption`.
#[derive(Debug, clap::Args)]
pub(super) struct CaptionArgs {
    /// Model folder.
    pub model: String,
    #[arg(long, value_name = "MODEL", help = help("model.scorer"))]
    pub scorer: Option<String>,
    /// Image files.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    pub provider: ProviderArgs,
    /// Sets any configuration key; the value is TOML, or else a string. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// `recaption eval`.
#[derive(Debug, clap::Args)]
pub(super) struct EvalArgs {
    /// Model folder.
    pub model: String,
    /// Shards with reference captions: URLs, paths, ranges, globs, folders.
    #[arg(required = true)]
    pub shards: Vec<String>,
    #[arg(long, value_name = "MODEL", help = help("model.scorer"))]
    pub scorer: Option<String>,
    #[command(flatten)]
    pub provider: ProviderArgs,
    /// Sets any configuration key; the value is TOML, or else a string. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// A column of scores.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum ScoreArg {
    /// Of image and chosen caption.
    Similarity,
    /// Of image and original caption; rows without one are never selected.
    OrgSimilarity,
    /// Probability that image and chosen caption match, of a scorer with a matching head.
    Itm,
    /// Probability that image and original caption match, of a run with `score.match_original`.
    OrgItm,
}

/// The threshold of `recaption filter`: exactly one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct CutArgs {
    /// Keep this fraction of the rows that have a score, rounded up; ties with the last of them are kept too.
    #[arg(long, value_name = "FRACTION")]
    pub keep_top: Option<Fraction>,
    /// Keep rows with at least this similarity, -1 to 1.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = similarity)]
    pub min_similarity: Option<f32>,
    /// Keep rows with at least this matching probability, 0 to 1; of a run whose scorer has a matching head.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = probability)]
    pub min_itm: Option<f32>,
}

/// `recaption filter`. Reads no images, loads no model, and never changes the output that it reads.
#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Output of `recaption run`, or of an earlier `recaption filter`: folder or bucket prefix.
    #[arg(value_name = "OUT")]
    pub output: String,
    /// The threshold.
    #[command(flatten)]
    pub cut: CutArgs,
    /// The column that is compared with the threshold [default: that of the threshold, else similarity].
    #[arg(long, value_name = "COLUMN")]
    pub by: Option<ScoreArg>,
    /// New dataset: folder or bucket prefix outside OUT. Rows that are not selected become its rejects.
    #[arg(long, value_name = "NEW")]
    pub to: String,
    /// Keep all rows, and add a column of this name that is true where a row is selected.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub column: Option<String>,
    /// Replace the output of another pass or run at NEW.
    #[arg(long)]
    pub overwrite: bool,
}

fn similarity(text: &str) -> Result<f32, String> {
    let number = text.parse::<f64>().ok().filter(|n| (-1.0..=1.0).contains(n));
    number.map(|n| n as f32).ok_or_else(|| "expected a number from -1 to 1".to_owned())
}

fn probability(text: &str) -> Result<f32, String> {
    let number = text.parse::<f64>().ok().filter(|n| (0.0..=1.0).contains(n));
    number.map(|n| n as f32).ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// `recaption inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// Model folder, checkpoint (directory or hf://ORG/NAME[@REVISION]) or output.
    pub path: String,
}

/// `recaption status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Output of `recaption run`: folder or bucket prefix.
    #[arg(value_name = "OUT")]
    pub output: String,
    /// Read all parts and compare their checksums with those of the commit records.
    #[arg(long)]
    pub verify: bool,
}

/// `recaption config`.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// What to print.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `recaption config` prints.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print all keys with default, range and meaning, as Markdown.
    Reference,
    /// Print the JSON schema (draft 2020-12) of a configuration file.
    Schema,
    /// Print the metrics of a run, as Markdown.
    Metrics,
    /// Print the effective value of every key, and where each was set.
    Show(Box<RunArgs>),
}
