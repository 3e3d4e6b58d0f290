//! `recaption plan`.

use std::path::PathBuf;

use super::{logging::Format, run_args::RunArgs};
use crate::{
    config::RunConfig,
    plan::{ForecastRequest, PlanJob, plan},
    run::ExitCode,
    runtime::on_runtime,
    terminal::print,
};

/// Keys that a run requires.
const REQUIRED: [&str; 3] = ["model.captioner", "output.url", "input.shards"];

/// `recaption plan`. Writes one small object to the output and deletes it, to see whether that is possible; nothing else.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// The preview.json that `recaption preview` wrote: its rate gives hours and cost.
    #[arg(long, value_name = "FILE")]
    pub preview: Option<PathBuf>,
    /// Images per second of this machine, where no preview fits.
    #[arg(long, value_name = "IMAGES_PER_S", value_parser = positive)]
    pub rate: Option<f64>,
    /// Price of this machine for an hour, in any currency.
    #[arg(long, value_name = "X", value_parser = price)]
    pub price_per_hour: Option<f64>,
    /// Number of workers, each on a machine like this, whose hours are shown.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub workers: Option<u64>,
}

/// Prints the plan of a run.
pub(super) fn plan_run(args: &PlanArgs, format: Format) -> anyhow::Result<ExitCode> {
    let layers = args.run.layers()?;
    let config = RunConfig::build_requiring(&layers, &[])?;
    let job = PlanJob {
        config: &config,
        missing: REQUIRED.iter().filter_map(|name| layers.require(name).err()).collect(),
        options: args.run.options()?,
        forecast: ForecastRequest {
            preview: args.preview.clone(),
            rate: args.rate,
            price_per_hour: args.price_per_hour,
            workers: args.workers,
        },
    };
    let report = on_runtime(async { Ok(plan(job).await) })?;
    match format {
        Format::Text => print(&report.to_string()),
        Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(report.exit_code())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn price(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| "expected a number from 0 on".to_owned())
}
