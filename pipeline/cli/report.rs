//! `recaption report OUT`: an output as one HTML page.

use std::path::PathBuf;

use super::logging;
use crate::{
    config,
    report::{DEFAULT_IMAGE_BYTES, DEFAULT_SAMPLES, MAX_SAMPLES, ReportJob, ReportTarget, report},
    run::ExitCode,
    runtime::on_runtime,
    terminal::print,
};

/// `recaption report`. Loads no model, and never changes the output that it reads.
#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// Output of `recaption run` or `recaption filter`: folder or bucket prefix.
    #[arg(value_name = "OUT")]
    output: String,
    /// HTML file to write; an older one is replaced.
    #[arg(long, value_name = "FILE", default_value = "report.html", value_parser = local_file)]
    out: PathBuf,
    /// Number of captions in the sample, at most 4,000. Statistics are of all rows.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SAMPLES as u64, value_parser = clap::value_parser!(u64).range(0..=MAX_SAMPLES as u64))]
    samples: u64,
    /// Seed of the sample.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Show no images, and read none.
    #[arg(long)]
    no_images: bool,
    /// Bytes of input shards to read for images, at most. Images in the output's rows need none of them.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_IMAGE_BYTES, conflicts_with = "no_images")]
    image_bytes: u64,
    /// Fetch images of the sample from the URLs in their rows where no input has them.
    #[arg(long, conflicts_with = "no_images")]
    fetch: bool,
}

fn local_file(text: &str) -> Result<PathBuf, String> {
    if text.contains("://") {
        return Err("is no file of this machine; write it to one, then copy it".to_owned());
    }
    Ok(text.into())
}

/// Writes the page and prints what it is of.
pub(super) fn write_report(args: &ReportArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    let job = ReportJob {
        output: args.output.clone(),
        target: ReportTarget::File(args.out.clone()),
        samples: usize::try_from(args.samples).unwrap_or(MAX_SAMPLES),
        seed: args.seed,
        images: !args.no_images,
        image_bytes: args.image_bytes,
        fetch: args.fetch,
        stores: config::environment_store_settings()?,
    };
    let summary = on_runtime(report(&job))?;
    match format {
        logging::Format::Text => print(&summary.to_string()),
        logging::Format::Json => print(&format!("{}\n", serde_json::to_string(&summary)?)),
    }
    Ok(ExitCode::Done)
}
