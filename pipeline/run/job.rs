//! A whole run: lock, join the other workers, plan, process, report.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context;
use recaption_input::{
    read::Splitter,
    shards::{ShardRef, list_shards},
};
use recaption_output::{
    commits::{CommitLog, OutputScan, Workers},
    layout::RUN_LOCK,
    open_output,
};
use recaption_store::{Location, LockAttempt, Stores, lock};

use super::{
    cleanup::{clear_leftovers, clear_superseded, finish_deletions, retire},
    context::RunContext,
    devices::Devices,
    failures,
    model::RunModel,
    options::RunOptions,
    output::Output,
    plan::Plan,
    progress::{Progress, Reporter},
    record::RunReport,
    rounds::{Job, Rounds, run_rounds},
    self_test::self_test,
    stop::Stop,
};
use crate::{
    config::{ConfigError, RunConfig},
    metrics::{Monitor, PlannedShards, RunFacts, serve},
};

/// Another run holds the lock. The program then exits with code 0, so that cron reports nothing.
#[derive(Debug, thiserror::Error)]
#[error("{output} is locked by {holder}; nothing was done")]
pub struct LockedOut {
    /// The output, redacted.
    output: String,
    /// Who holds the lock.
    holder: String,
}

/// Runs the job and reports what happened, also when shards failed.
///
/// # Errors
/// Bad configuration, an output of another configuration, an unusable model, an output that cannot be listed, a model that
/// fails.
pub async fn run(
    config: &RunConfig,
    options: RunOptions,
    stop: &Arc<Stop>,
    reporter: &Reporter,
) -> anyhow::Result<RunReport> {
    run_monitored(config, options, stop, reporter, &Arc::default()).await
}

/// As [`run()`], watched by `monitor`, whose metrics are served where an address is configured.
///
/// # Errors
/// As [`run()`], and when metrics cannot be served at the configured address.
pub(crate) async fn run_monitored(
    config: &RunConfig,
    options: RunOptions,
    stop: &Arc<Stop>,
    reporter: &Reporter,
    monitor: &Arc<Monitor>,
) -> anyhow::Result<RunReport> {
    // A port that is in use is an error before models are loaded.
    let _server = match &config.monitoring.address {
        Some(address) => Some(serve(monitor, address).await?),
        None => None,
    };
    run_watched(Stores::new(config.stores), config, options, stop, (reporter, monitor)).await
}

/// As [`run()`], over given stores.
///
/// # Errors
/// As [`run()`].
pub async fn run_over(
    stores: Stores,
    config: &RunConfig,
    options: RunOptions,
    stop: &Arc<Stop>,
    reporter: &Reporter,
) -> anyhow::Result<RunReport> {
    run_watched(stores, config, options, stop, (reporter, &Monitor::default())).await
}

async fn run_watched(
    mut stores: Stores,
    config: &RunConfig,
    options: RunOptions,
    stop: &Arc<Stop>,
    watchers: (&Reporter, &Monitor),
) -> anyhow::Result<RunReport> {
    watchers.1.watch_stores(stores.counters());
    // A model that cannot be used is an error before anything is written.
    let model = RunModel::open(config)?;
    let output = open_output(&mut stores, &config.output.url)?;
    let lock = match options.lock {
        true => match lock(&output.child(RUN_LOCK), Duration::from_secs(config.resources.lock_seconds))
            .await?
        {
            LockAttempt::HeldBy { holder } => return Err(LockedOut { output: output.url(), holder }.into()),
            LockAttempt::Acquired(lock) => Some(lock),
        },
        false => None,
    };
    // Joined before the records are listed, so that the last worker to leave knows that no listing predates its own work.
    let workers = join_workers(config, &output, watchers.1).await;
    let report = run_unlocked((stores, output), (config, model), options, (stop, &workers), watchers).await;
    if let Some(workers) = workers.and_then(Arc::into_inner) {
        workers.leave().await;
    }
    if let Some(lock) = lock {
        lock.release().await;
    }
    report
}

async fn run_unlocked(
    (mut stores, output): (Stores, Location),
    (config, mut model): (&RunConfig, RunModel),
    options: RunOptions,
    (stop, workers): (&Arc<Stop>, &Option<Arc<Workers>>),
    (reporter, monitor): (&Reporter, &Monitor),
) -> anyhow::Result<RunReport> {
    refuse_output_among_inputs(&mut stores, config, &output)?;
    let commit_log = CommitLog::new(output.clone());
    let Some(plan) =
        stop.unless_requested(plan((&mut stores, &output), config, options, (&model, &commit_log))).await
    else {
        anyhow::bail!("stopped while the work was planned; nothing was done");
    };
    let plan = plan?;
    let committer = commit_log.committer(plan.configuration.clone(), options.overwrite).await?;
    let described = Output::new(config, &model, &output, committer);
    let mut report = RunReport::begin(config, &model, &output, &plan);
    report.task = options.task;
    monitor.planned(planned(&plan));
    monitor.describe(RunFacts {
        output: report.output.clone(),
        model: report.model.clone(),
        scorer: report.scorer.clone().unwrap_or_default(),
    });
    report.leftovers_removed = clear_leftovers(&commit_log, &plan.leftovers, workers.as_deref()).await?;
    finish_deletions(&commit_log, &plan).await.context("an interrupted deletion cannot be finished")?;
    let Rounds { results, not_begun } = if plan.todo.is_empty() {
        Rounds::default()
    } else {
        warn_circular(&model);
        let executions = model.resolve(config)?;
        report.self_test = self_test(config, &model, &executions).await?;
        let devices = Arc::new(Devices::new(&executions));
        let progress =
            Arc::new(Progress::new(&plan).on(&devices).writing(&described.meter).expecting(options.limit));
        if let Some(workers) = workers {
            let progress = Arc::clone(&progress);
            workers.report_progress(move || progress.outcomes.finished() + progress.read.bytes.load(Relaxed));
        }
        monitor.watch(&progress);
        let _bar = reporter.start(&progress);
        let context = RunContext { config, model: &model, devices: &devices, stop, progress: &progress };
        let job = Job { plan: &plan, output: &described, workers, limit: options.limit, task: options.task };
        let rounds = run_rounds(context, job).await;
        report.computed_by(&devices, &progress);
        rounds?
    };
    report.leave_out(not_begun);
    monitor.leave_out(not_begun);
    failures::remember(&commit_log, &plan, &results, &mut report).await;
    clear_superseded(&commit_log, &plan, &results)
        .await
        .context("stale parts of lists could not be removed")?;
    if options.retire && !stop.requested() {
        retire(&commit_log, &plan).await.context("shards without an input could not be retired")?;
        report.retired = true;
    }
    report.requests_retried = stores.retried();
    report.decoder_panics = recaption_image::panics();
    report.interrupted = stop.requested();
    report.write(&output).await.context("the run's record could not be written")?;
    Ok(report)
}

/// Joins the workers of an output; `None` where claims are off, or the output cannot hold them.
pub(crate) async fn join_workers(
    config: &RunConfig,
    output: &Location,
    monitor: &Monitor,
) -> Option<Arc<Workers>> {
    match Workers::join(output, config.resources.claim_lease?).await {
        Ok(workers) => {
            monitor.watch_workers(workers.count());
            Some(Arc::new(workers))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot publish claims to other workers; shards may be processed twice");
            None
        }
    }
}

fn planned(plan: &Plan) -> PlannedShards {
    PlannedShards {
        todo: plan.todo.len(),
        skipped: plan.done.len(),
        not_selected: plan.not_selected,
        bytes: plan.bytes(),
    }
}

/// Rejects an output that is also an input folder: its parts would be read as input by the next run.
///
/// # Errors
/// [`ConfigError`] that names the output.
pub(crate) fn refuse_output_among_inputs(
    stores: &mut Stores,
    config: &RunConfig,
    output: &Location,
) -> anyhow::Result<()> {
    let is_plain = |pattern: &&String| !pattern.contains(['*', '?', '[', '{', '@']);
    for pattern in config.input.shards.iter().filter(is_plain) {
        // A pattern that is not a valid location is reported when it is listed.
        let Ok(input) = stores.locate(pattern) else { continue };
        if input.url().trim_end_matches('/') == output.url().trim_end_matches('/') {
            let what = format!("the output {} is also an input: choose another output", output.url());
            return Err(ConfigError { origin: "output.url".to_owned(), what }.into());
        }
    }
    Ok(())
}

/// Compares the inputs with the commit records, as a run does.
///
/// # Errors
/// Inputs or an output that cannot be listed, and those of [`Plan::make`].
pub(crate) async fn plan(
    (stores, output): (&mut Stores, &Location),
    config: &RunConfig,
    options: RunOptions,
    (model, commit_log): (&RunModel, &CommitLog),
) -> anyhow::Result<Plan> {
    // Concurrently: in a bucket each takes a request per thousand shards.
    let listing = list_shards(stores, &config.input.shards, config.input.read.format);
    let (shards, survey, removals) = tokio::join!(listing, commit_log.scan(), commit_log.pending_deletions());
    let splitter = Splitter { settings: &config.input.read, output, can_write: true };
    let found = (survey?, &*removals?);
    let plan = compare(shards?, found, (commit_log, splitter), (config, model), &options).await?;
    tracing::info!(
        shards = plan.todo.len() + plan.done.len(),
        done = plan.done.len(),
        todo = plan.todo.len(),
        bytes = plan.bytes(),
        "planned"
    );
    Ok(plan)
}

/// Compares shards with what was found in the output. `recaption plan` calls it too, with a splitter that may not write.
///
/// # Errors
/// As [`Plan::make`].
pub(crate) async fn compare(
    shards: Vec<ShardRef>,
    found: (OutputScan, &[String]),
    (commit_log, splitter): (&CommitLog, Splitter<'_>),
    (config, model): (&RunConfig, &RunModel),
    options: &RunOptions,
) -> anyhow::Result<Plan> {
    let (keys, settings) = (model.row_keys(config), config.reject_settings());
    let options = (options, config.resources.seed);
    Plan::make(shards, found, (commit_log, splitter), (keys, &settings), options).await
}

/// Warns where the captioner scores its own captions: it prefers what it tends to generate.
pub(crate) fn warn_circular(model: &RunModel) {
    if !model.is_circular() {
        return;
    }
    tracing::warn!(
        "the captioner scores its own captions, which is circular: similarities rank captions of one model, they do not compare models; use --scorer MODEL to score with another model"
    );
}
