//! `recaption run`.

use super::{logging::Format, run_args::RunArgs};
use crate::{
    config::RunConfig,
    run::{ExitCode, LockedOut, Reporter, RunOptions},
    runtime::run_to_end,
    terminal::print,
};

/// Runs the configured job.
pub(super) fn run_job(args: &RunArgs, format: Format) -> anyhow::Result<ExitCode> {
    let config = RunConfig::build(&args.layers()?)?;
    finish_run(&config, args.options(), format)
}

/// Runs a job and prints its report.
pub(super) fn finish_run(
    config: &RunConfig,
    options: RunOptions,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let report = match run_to_end(config, options, Reporter::Auto) {
        Err(error) if error.is::<LockedOut>() => {
            tracing::info!("{error}");
            return Ok(ExitCode::Done);
        }
        report => report?,
    };
    match format {
        Format::Text => print(&report.to_string()),
        Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(report.exit_code())
}
