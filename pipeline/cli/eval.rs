//! `recaption eval MODEL SHARDS...`.

use std::sync::Arc;

use anyhow::Context;

use super::{args::EvalArgs, logging, print};
use crate::{
    config::{Layers, RunConfig},
    evaluate::evaluate,
    run::{self, ExitCode, Reporter, Stop},
};

/// Measures and prints.
pub fn eval(args: &EvalArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    let mut layers = Layers::default();
    super::add_environment(&mut layers)?;
    layers.set("model.captioner", args.model.to_string_lossy().into_owned(), "MODEL")?;
    if let Some(scorer) = &args.scorer {
        layers.set("model.scorer", scorer.to_string_lossy().into_owned(), "--scorer")?;
    }
    let shards = args.shards.iter().cloned().map(toml::Value::String).collect();
    layers.set("input.shards", toml::Value::Array(shards), "SHARDS")?;
    layers.set("output.url", "-", "stdout")?;
    args.provider.add_to(&mut layers)?;
    for assignment in &args.set {
        layers.add_assignment(assignment)?;
    }
    let config = RunConfig::build(&layers)?;
    let report = super::on_runtime(async {
        let stop = Arc::new(Stop::default());
        run::install_signal_handlers(&stop).context("cannot install signal handlers")?;
        evaluate(&config, &stop, &Reporter::Auto).await
    })?;
    match format {
        logging::Format::Text => print(&report.to_string()),
        logging::Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(report.exit_code())
}
