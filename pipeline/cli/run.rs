//! `recaption run`.

use std::sync::Arc;

use super::{exit::exit_code_of, logging::Format, run_args::RunArgs};
use crate::{
    config::RunConfig,
    metrics::{Monitor, check_textfile, write_textfile},
    run::{ExitCode, LockedOut, Reporter, RunOptions},
    runtime::run_to_end,
    terminal::print,
};

/// Runs the configured job.
pub(super) fn run_job(args: &RunArgs, format: Format) -> anyhow::Result<ExitCode> {
    let config = RunConfig::build(&args.layers()?)?;
    finish_run(&config, args.options()?, format)
}

/// Runs a job, prints its report, and writes its metrics where a file is configured, also when the run fails.
pub(super) fn finish_run(
    config: &RunConfig,
    options: RunOptions,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let file = config.monitoring.file.as_deref();
    file.map_or(Ok(()), check_textfile)?;
    let monitor = Arc::new(Monitor::default());
    let result = run_to_end(config, options, Reporter::Auto, &monitor);
    let code = match &result {
        // The run that holds the lock writes the file.
        Err(error) if error.is::<LockedOut>() => {
            tracing::info!("{error}");
            return Ok(ExitCode::Done);
        }
        Err(error) => exit_code_of(error),
        Ok(report) => report.exit_code(),
    };
    if let Some(file) = file
        && let Err(error) = write_textfile(file, &monitor, &config.output.url, code)
    {
        tracing::error!("{error:#}");
    }
    let report = result?;
    match format {
        Format::Text => print(&report.to_string()),
        Format::Json => print(&format!("{}\n", serde_json::to_string(&report)?)),
    }
    Ok(code)
}
