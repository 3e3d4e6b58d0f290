//! `recaption status OUT` and `recaption retry OUT`: what is missing in an output, and another attempt at it. Both read
//! the configuration from the record of the last run.

use super::{
    args::StatusArgs,
    last_run::{absolute_patterns, configuring, enter, environment_stores},
    logging,
    run::finish_run,
    run_args::{RetryArgs, set_inputs},
};
use crate::{
    config::RunConfig,
    run::{ExitCode, LastRun, RunOptions, status},
};
use crate::{runtime::on_runtime, terminal::print};

/// Describes what is done, pending and failed.
pub(super) fn show(args: &StatusArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    let mut stores = environment_stores()?;
    let output = stores.locate(&args.output)?;
    let found = on_runtime(async {
        enter(&configuring(LastRun::of(&output).await?, &output, true).await?);
        status(&mut stores, &output, args.verify).await
    })?;
    match format {
        logging::Format::Text => print(&found.to_string()),
        logging::Format::Json => print(&format!("{}\n", serde_json::to_string(&found)?)),
    }
    Ok(if found.has_invalid() { ExitCode::Incomplete } else { ExitCode::Done })
}

/// Runs what failed once more, configured as the last run was.
pub(super) fn retry(args: &RetryArgs, format: logging::Format) -> anyhow::Result<ExitCode> {
    // Looked up before the directory changes.
    let output = environment_stores()?.locate(&args.output)?;
    let needs_inputs = args.input.is_empty();
    let last = on_runtime(async { configuring(LastRun::of(&output).await?, &output, needs_inputs).await })?;
    let mut layers = last.layers()?;
    for assignment in &args.set {
        layers.add_assignment(assignment)?;
    }
    set_inputs(&mut layers, &absolute_patterns(&args.input)?)?;
    let url = if args.output.contains("://") { args.output.clone() } else { output.url() };
    layers.set("output.url", url, "OUT")?;
    enter(&last);
    let config = RunConfig::build(&layers)?;
    let options = RunOptions { retry: true, lock: args.lock, ..RunOptions::default() };
    finish_run(&config, options, format)
}
