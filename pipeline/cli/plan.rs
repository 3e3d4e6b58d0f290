//! `recaption plan`.

use std::{
    io::{BufWriter, ErrorKind, Write},
    path::PathBuf,
};

use anyhow::Context;

use super::{logging::Format, run_args::RunArgs};
use crate::{
    config::RunConfig,
    plan::{ForecastRequest, PlanJob, ShardToDo, plan, shards_to_do},
    run::{ExitCode, RunOptions},
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
    /// Print the shards to do and nothing else, each as a request to `recaption worker`; neither models nor this machine are looked
    /// at.
    #[arg(long, conflicts_with_all = ["preview", "rate", "price_per_hour", "workers", "overwrite", "limit"])]
    pub shards: bool,
}

/// Prints the plan of a run.
pub(super) fn plan_run(args: &PlanArgs, format: Format) -> anyhow::Result<ExitCode> {
    let layers = args.run.layers()?;
    if args.shards {
        return print_shards(&RunConfig::build(&layers)?, args.run.options()?);
    }
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

/// Prints the shards to do, one request a line. A driver that stops reading is no error.
fn print_shards(config: &RunConfig, options: RunOptions) -> anyhow::Result<ExitCode> {
    let shards = on_runtime(shards_to_do(config, options))?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let print = |shard: &ShardToDo| {
        serde_json::to_writer(&mut out, shard)?;
        out.write_all(b"\n")
    };
    let printed = shards.iter().try_for_each(print).and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("the shards cannot be printed")
        }
        _ => Ok(ExitCode::Done),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn price(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| "expected a number from 0 on".to_owned())
}
