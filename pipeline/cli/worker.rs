//! `recaption worker`.

use std::sync::Arc;

use anyhow::Context;
use recaption_schemas::redact_text;
use recaption_store::StoreError;

use super::{exit::exit_code_of, logging::with_causes, run_args::SettingsArgs};
use crate::{
    config::RunConfig,
    metrics::{Monitor, check_textfile, write_textfile},
    run::{ExitCode, Stop, install_signal_handlers},
    runtime::on_runtime,
    worker::{Answers, ErrorClass, Parent, StoppedEarly, WorkerJob, work},
};

/// Keys that a worker requires: its shards come from its driver.
const REQUIRED: [&str; 2] = ["model.captioner", "output.url"];

/// `recaption worker`. Configured as a run; input.shards is not needed. It ends with its input, and with the process that started
/// it. docs/src/worker-protocol.md describes the lines.
#[derive(Debug, clap::Args)]
pub(super) struct WorkerArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Works until stdin ends or a stop is requested. An error is the last answer, too.
pub(super) fn serve(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    let parent = Parent::now();
    on_runtime(async {
        let stop = Arc::new(Stop::default());
        let answers = Answers::start(std::io::stdout(), &stop).context("cannot start a thread")?;
        let result = serve_until_end(args, parent, &stop, &answers).await;
        if let Err(error) = &result {
            answers.fatal(class_of(error), redact_text(&with_causes(error)));
            // Nobody waits long for a driver that does not read.
            stop.abort();
        }
        answers.finish(&stop).await;
        result
    })
}

async fn serve_until_end(
    args: &WorkerArgs,
    parent: Parent,
    stop: &Arc<Stop>,
    answers: &Answers,
) -> anyhow::Result<ExitCode> {
    let config = RunConfig::build_requiring(&args.settings.layers()?, &REQUIRED)?;
    install_signal_handlers(stop, config.resources.grace).context("cannot install signal handlers")?;
    parent.watch(stop).context("cannot watch the parent process")?;
    let file = config.monitoring.file.as_deref();
    file.map_or(Ok(()), check_textfile)?;
    let monitor = Arc::new(Monitor::default());
    let result = work(WorkerJob { config: &config, stop, monitor: &monitor, answers }).await;
    let code = match &result {
        Err(error) => exit_code_of(error),
        // Shards that failed are answers, and their driver decides what they mean.
        Ok(report) if report.shards_incomplete > 0 => ExitCode::Failed,
        Ok(_) => ExitCode::Done,
    };
    if let Some(file) = file
        && let Err(error) = write_textfile(file, &monitor, &config.output.url, code)
    {
        tracing::error!("{error:#}");
    }
    let report = result?;
    tracing::info!(
        done = report.shards_done,
        skipped = report.shards_skipped,
        done_by_others = report.shards_done_by_others,
        failed = report.shards_failed.len(),
        stopped = report.shards_incomplete,
        images = report.counts.read,
        seconds = report.seconds,
        "the worker ends"
    );
    Ok(code)
}

/// Returns what the driver can do about an error that ends the worker.
fn class_of(error: &anyhow::Error) -> ErrorClass {
    if exit_code_of(error) == ExitCode::Usage {
        return ErrorClass::Configuration;
    }
    if error.is::<StoppedEarly>() {
        return ErrorClass::Transient;
    }
    let is_transient = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<StoreError>().is_some_and(|error| error.kind().is_retryable())
    };
    if error.chain().any(is_transient) { ErrorClass::Transient } else { ErrorClass::Permanent }
}
