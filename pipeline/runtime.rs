//! The program's asynchronous runtime.

use std::{future::Future, sync::Arc};

use anyhow::Context;

use crate::{
    config::RunConfig,
    metrics::Monitor,
    run::{self, Reporter, RunOptions, RunReport, Stop},
};

/// Runs a job on a runtime of its own, with signal handlers.
///
/// # Errors
/// As [`run::run`], when metrics cannot be served, and when the runtime cannot be started.
pub(crate) fn run_to_end(
    config: &RunConfig,
    options: RunOptions,
    reporter: Reporter,
    monitor: &Arc<Monitor>,
) -> anyhow::Result<RunReport> {
    on_runtime(async {
        let stop = Arc::new(Stop::default());
        run::install_signal_handlers(&stop, config.resources.grace)
            .context("cannot install signal handlers")?;
        run::run_monitored(config, options, &stop, &reporter, monitor).await
    })
}

/// Runs `work` on a runtime that does not wait at its end for what hangs, such as an open of a file that never returns.
///
/// # Errors
/// Those of `work`, and when the runtime cannot be started.
pub(crate) fn on_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}
