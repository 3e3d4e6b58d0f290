//! `recaption convert OUT --to FORMAT --out DEST`.

use clap::ValueEnum;
use recaption_input::webdataset::is_image_suffix;
use recaption_schemas::Blend;

use super::logging;
use crate::{
    config::{self, ConfigError},
    convert::{self, ColumnPreset, ConvertJob, SidecarCaptions, TargetFormat},
    run::ExitCode,
    runtime::on_runtime,
    terminal::print,
};

/// Usual suffix of sidecars.
const SIDECAR_SUFFIX: &str = "txt";
/// Suffixes of metadata and shards, which a sidecar beside the images could replace.
const INPUT_SUFFIXES: [&str; 8] = ["json", "jsonl", "ndjson", "csv", "tsv", "parquet", "tar", "zip"];

/// What a trainer loads.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum FormatArg {
    /// Numbered tars with image, .txt and .json of every sample.
    Webdataset,
    /// A text file beside every image, as kohya's scripts read it.
    Sidecar,
    /// A Hugging Face image folder with metadata.parquet.
    Hf,
    /// Numbered Parquet files.
    Parquet,
}

/// Columns of Parquet files.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "lower")]
pub(super) enum ColumnsArg {
    /// Those of the output.
    Recaption,
    /// URL, TEXT, WIDTH, HEIGHT, similarity, hash, key, sha256.
    Laion,
    /// url, caption, key, status, width, height, sha256 and the others of img2dataset.
    Img2dataset,
    /// Image and text.
    Hf,
}

/// Lines of a sidecar.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum CaptionsArg {
    /// The text to train with: blended, or the chosen caption.
    Chosen,
    /// All candidates, the chosen one first.
    All,
    /// The chosen caption, then the original one.
    Both,
}

/// `recaption convert`. Loads no model, and never changes the output that it reads.
#[derive(Debug, clap::Args)]
pub(super) struct ConvertArgs {
    /// Output of `recaption run` or `recaption filter`: folder or bucket prefix.
    #[arg(value_name = "OUT")]
    pub output: String,
    /// The format to write.
    #[arg(long, value_name = "FORMAT")]
    pub to: FormatArg,
    /// Where to write: folder or bucket prefix outside OUT. Without it, sidecars are written beside the images of input folders.
    #[arg(long, value_name = "DEST", required_if_eq_any = [("to", "webdataset"), ("to", "hf"), ("to", "parquet")])]
    pub out: Option<String>,
    /// Columns of Parquet files.
    #[arg(long, value_name = "PRESET", default_value = "recaption")]
    pub columns: ColumnsArg,
    /// Lines of sidecars.
    #[arg(long, value_name = "LINES", default_value = "chosen")]
    pub captions: CaptionsArg,
    /// File name suffix of sidecars, such as txt or caption.
    #[arg(long, value_name = "SUFFIX", default_value = SIDECAR_SUFFIX, value_parser = suffix)]
    pub suffix: String,
    /// Most samples in a tar, a Parquet file or a folder.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rows_per_shard: u64,
    /// Take the synthetic caption as text with this probability, else the original one; by default the column `text`, or the
    /// synthetic caption.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub blend_synthetic: Option<f64>,
    /// Seed of the blend.
    #[arg(long, value_name = "S", default_value_t = 0, requires = "blend_synthetic")]
    pub seed: u64,
    /// Shards that hold the images, where their URLs have secrets or moved. May be repeated.
    #[arg(long, value_name = "URL")]
    pub input: Vec<String>,
    /// Convert what is there of an output whose run failed or did not finish.
    #[arg(long)]
    pub allow_partial: bool,
    /// Replace another conversion at DEST, or sidecars of other content.
    #[arg(long)]
    pub overwrite: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| (0.0..=1.0).contains(n));
    number.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

fn suffix(text: &str) -> Result<String, String> {
    let text = text.trim_start_matches('.');
    let is_plain = !text.is_empty() && text.len() <= 16 && text.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_plain {
        return Err("expected letters and digits, such as txt".to_owned());
    }
    let lower = text.to_ascii_lowercase();
    if is_image_suffix(&lower) || INPUT_SUFFIXES.contains(&lower.as_str()) {
        return Err(format!(
            "files with the suffix {text} are images or inputs; expected one such as txt or caption"
        ));
    }
    Ok(text.to_owned())
}

impl ConvertArgs {
    /// Refuses options that the format would ignore.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse =
            |origin: &str, what: &str| Err(ConfigError { origin: origin.to_owned(), what: what.to_owned() });
        if !matches!((self.to, self.columns), (FormatArg::Parquet, _) | (_, ColumnsArg::Recaption)) {
            return refuse("--columns", "only --to parquet has columns to choose");
        }
        let is_chosen = matches!(self.captions, CaptionsArg::Chosen);
        if !matches!(self.to, FormatArg::Sidecar) && (!is_chosen || self.suffix != SIDECAR_SUFFIX) {
            return refuse("--captions, --suffix", "only --to sidecar writes sidecars");
        }
        if self.blend_synthetic.is_some() && !is_chosen {
            let what = "`--captions all` and `both` write all captions, so there is none to draw; leave one of the two out";
            return refuse("--blend-synthetic", what);
        }
        Ok(())
    }

    fn job(&self) -> Result<ConvertJob, ConfigError> {
        self.check()?;
        Ok(ConvertJob {
            source: self.output.clone(),
            target: self.out.clone(),
            format: match self.to {
                FormatArg::Webdataset => TargetFormat::Webdataset,
                FormatArg::Sidecar => TargetFormat::Sidecar,
                FormatArg::Hf => TargetFormat::Hf,
                FormatArg::Parquet => TargetFormat::Parquet,
            },
            columns: match self.columns {
                ColumnsArg::Recaption => ColumnPreset::Recaption,
                ColumnsArg::Laion => ColumnPreset::Laion,
                ColumnsArg::Img2dataset => ColumnPreset::Img2dataset,
                ColumnsArg::Hf => ColumnPreset::Hf,
            },
            captions: match self.captions {
                CaptionsArg::Chosen => SidecarCaptions::Chosen,
                CaptionsArg::All => SidecarCaptions::All,
                CaptionsArg::Both => SidecarCaptions::Both,
            },
            suffix: self.suffix.clone(),
            rows_per_shard: self.rows_per_shard,
            blend: self.blend_synthetic.and_then(|synthetic| Blend::new(synthetic, self.seed)),
            inputs: self.input.clone(),
            allow_partial: self.allow_partial,
            overwrite: self.overwrite,
            stores: config::environment_store_settings()?,
        })
    }
}

/// Converts an output and prints the report. Ends with code 3 when images are missing.
pub(super) fn convert(args: &ConvertArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    let job = args.job()?;
    let report = on_runtime(convert::convert(&job))?;
    match format {
        logging::Format::Text => print(&report.to_string()),
        logging::Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(if report.missing > 0 { ExitCode::Incomplete } else { ExitCode::Done })
}
