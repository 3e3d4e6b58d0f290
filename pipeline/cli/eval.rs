//! `recaption eval MODEL SHARDS...`.

use std::sync::Arc;

use anyhow::Context;

use super::{args::EvalArgs, logging, run_args::set};
use crate::{
    config::{Layers, RunConfig},
    evaluate::evaluate,
    run::{self, ExitCode, Reporter, Stop},
};
use crate::{runtime::on_runtime, terminal::print};

/// Measures and prints.
pub(super) fn eval(args: &EvalArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    let mut layers = Layers::default();
    layers.add_process_environment()?;
    for assignment in &args.set {
        layers.add_assignment(assignment)?;
    }
    layers.set("model.captioner", args.model.clone(), "MODEL")?;
    set(&mut layers, "model.scorer", args.scorer.as_ref(), "--scorer")?;
    let shards: Vec<toml::Value> = args.shards.iter().cloned().map(Into::into).collect();
    layers.set("input.shards", shards, "SHARDS")?;
    args.provider.add_to(&mut layers)?;
    let config = RunConfig::build_requiring(&layers, &["model.captioner", "input.shards"])?;
    let report = on_runtime(async {
        let stop = Arc::new(Stop::default());
        run::install_signal_handlers(&stop, None).context("cannot install signal handlers")?;
        evaluate(&config, &stop, &Reporter::Auto).await
    })?;
    match format {
        logging::Format::Text => print(&report.to_string()),
        logging::Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(report.exit_code())
}
