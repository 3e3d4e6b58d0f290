//! `recaption run`: plan, wire, account.
//!
//! ```text
//! readers (tokio) -> decode (rayon) -> workers (one thread each, own the models) -> shard writers (tokio)
//!        \_________________________ rejects ____________________________________/
//! ```
//! Every arrow is a bounded channel. Readers are held back by a window of open shards and a budget of bytes, so memory
//! does not grow with the size of a shard or of the dataset.

mod captioners;
mod collector;
mod devices;
mod failures;
mod guard;
mod model;
mod plan;
mod progress;
mod queue;
mod readers;
mod record;
mod self_test;
mod shard_writer;
mod status;
mod stop;
mod wire;

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use plan::{Orphans, Task};
use recaption_input::{
    read::{Splitter, StalePart},
    shards::list_shards,
};
use recaption_output::{
    commits::{CommitLog, ExistingPart, ExistingRecord, Workers},
    layout::RUN_LOCK,
    open_output,
};
use recaption_schemas::ShardId;
use recaption_store::{Location, LockAttempt, Stores, lock};
use shard_writer::{Output, ShardResult};

pub(crate) use collector::Event;
pub use devices::{DeviceReport, Devices};
pub use model::RunModel;
pub use plan::{Mismatch, Plan};
pub(crate) use plan::{refuse_others, unclaimed};
pub use progress::{Progress, Reporter};
pub use record::{ExitCode, RunReport};
pub use self_test::{SelfTest, self_test, self_test_with};
pub use status::{LastRun, Status, status};
pub use stop::{Stop, install_signal_handlers};
pub(crate) use wire::{Wanted, stream};

use crate::config::RunConfig;

/// How a run treats what is already there and how it reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Replace an output that was made with another configuration.
    pub overwrite: bool,
    /// Leave shards alone that did not change since.
    pub since: Option<DateTime<Utc>>,
    /// Remove the rows of shards that are not among the inputs any more.
    pub retire: bool,
    /// Run only where no other run with a lock does.
    pub lock: bool,
    /// Do only what failed: shards, and shards with samples that were rejected for a reason that may pass.
    pub retry: bool,
}

/// Another run holds the lock. Ends the program with exit code 0: for cron nothing is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{output} is locked by {holder}; nothing was done")]
pub struct LockedOut {
    /// The output, redacted.
    output: String,
    /// Who holds the lock.
    holder: String,
}

/// Runs the job; returns what happened, also when shards failed.
///
/// # Errors
/// Bad configuration ([`Mismatch`] among it), an unusable model, an output that cannot be listed, a model that fails.
pub async fn run(
    config: &RunConfig,
    options: RunOptions,
    stop: &Arc<Stop>,
    reporter: &Reporter,
) -> anyhow::Result<RunReport> {
    run_over(Stores::new(config.stores), config, options, stop, reporter).await
}

/// As [`run()`], over stores of the caller's.
///
/// # Errors
/// As [`run()`].
pub async fn run_over(
    mut stores: Stores,
    config: &RunConfig,
    options: RunOptions,
    stop: &Arc<Stop>,
    reporter: &Reporter,
) -> anyhow::Result<RunReport> {
    // A model that cannot be used is an error before anything is written.
    let model = RunModel::open(config)?;
    let output = open_output(&mut stores, &config.output)?;
    let lock = match options.lock {
        true => match lock(&output.child(RUN_LOCK), Duration::from_secs(config.lock_seconds)).await? {
            LockAttempt::HeldBy { holder } => return Err(LockedOut { output: output.url(), holder }.into()),
            LockAttempt::Acquired(lock) => Some(lock),
        },
        false => None,
    };
    // Before the records are listed: whoever leaves last then knows that nobody's list is older than his work.
    let workers = match config.claims {
        Some(lease) => match Workers::join(&output, lease).await {
            Ok(workers) => Some(Arc::new(workers)),
            Err(error) => {
                tracing::warn!(%error, "other workers cannot be told what this one does; shards may be done twice");
                None
            }
        },
        None => None,
    };
    let report = run_unlocked((stores, output), (config, model), options, (stop, &workers), reporter).await;
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
    reporter: &Reporter,
) -> anyhow::Result<RunReport> {
    let commit_log = CommitLog::new(output.clone());
    let Some(plan) =
        stop.unless_pressed(plan((&mut stores, &output), config, options, (&model, &commit_log))).await
    else {
        anyhow::bail!("stopped while the work was planned; nothing was done");
    };
    let plan = plan?;
    let committer = commit_log.committer(plan.configuration.clone(), options.overwrite).await?;
    let described = wire::describe_output(config, &model, (&output, committer));
    let mut report = RunReport::begin(config, &model, &plan);
    report.leftovers_removed = clear_leftovers(&commit_log, &plan, workers.as_deref()).await?;
    end_removals(&commit_log, &plan).await.context("rows that a run left cannot be removed")?;
    let results = if plan.todo.is_empty() {
        Vec::new()
    } else {
        if model.is_circular() {
            warn_circular();
        }
        let executions = model.resolve(config)?;
        report.self_test = self_test(config, &model, &executions).await?;
        let devices = Arc::new(Devices::new(&executions));
        let progress = Arc::new(Progress::new(&plan).on(&devices));
        if let Some(workers) = workers {
            let progress = Arc::clone(&progress);
            workers
                .report_progress(move || progress.finished.load(Relaxed) + progress.bytes_read.load(Relaxed));
        }
        let _bar = reporter.start(&progress);
        let plan_and_output = (&plan, &described, workers);
        let results = rounds(config, (&model, &devices), plan_and_output, (stop, &progress)).await;
        report.computed_by(&devices);
        results?
    };
    failures::remember(&commit_log, &plan, &results, &mut report).await;
    clear_superseded(&commit_log, &plan, &results)
        .await
        .context("parts that lists no longer have could not be removed")?;
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

/// Compares what there is to do with what is done.
async fn plan(
    (stores, output): (&mut Stores, &Location),
    config: &RunConfig,
    options: RunOptions,
    (model, commit_log): (&RunModel, &CommitLog),
) -> anyhow::Result<Plan> {
    // All at once: in a bucket each takes a request per thousand shards.
    let listing = list_shards(stores, &config.shards, config.read.format);
    let (shards, survey, removals) = tokio::join!(listing, commit_log.scan(), commit_log.pending_deletions());
    let scorer = model.scorer.as_ref().map(|scorer| scorer.digest.as_str());
    let keys = config.row_keys(&model.folder.digest, scorer, model.settings.max_tokens);
    let splitter = Splitter { settings: &config.read, output, remember: true };
    let settings = config.reject_settings();
    let found = (survey?, &*removals?);
    let plan = Plan::make(shards?, found, (commit_log, splitter), (keys, &settings), &options).await?;
    tracing::info!(
        shards = plan.todo.len() + plan.done.len(),
        done = plan.done.len(),
        todo = plan.todo.len(),
        bytes = plan.bytes(),
        "planned"
    );
    Ok(plan)
}

/// Age from which what lies beside a shard that is done is nobody's, though another worker lives.
const LEFTOVER_AGE: TimeDelta = TimeDelta::hours(1);

/// Removes what attempts that came to nothing left beside shards that are done: a reader of the folders would see rows twice.
/// What may be another worker's attempt at them stays.
async fn clear_leftovers(
    commit_log: &CommitLog,
    plan: &Plan,
    workers: Option<&Workers>,
) -> anyhow::Result<usize> {
    let others = workers.is_some_and(Workers::has_others);
    let old = Utc::now() - LEFTOVER_AGE;
    let mut removed = 0;
    for found in &plan.leftovers {
        let nobodys = |seen: &&ExistingPart| !others || seen.modified < old;
        let parts: Vec<ExistingPart> = found.orphaned_parts.iter().filter(nobodys).cloned().collect();
        for one in found
            .stale_records
            .iter()
            .map(ExistingRecord::path)
            .chain(parts.iter().map(|seen| seen.path.clone()))
        {
            tracing::warn!(file = one, "an attempt that came to nothing left it; it is removed");
            removed += 1;
        }
        commit_log
            .delete_stale(&found.stale_records, &parts, None)
            .await
            .context("what a dead worker left cannot be removed")?;
    }
    Ok(removed)
}

/// Rounds over shards that failed on the way.
const ROUNDS: u32 = 3;
/// Pause before each round but the first; what failed with a store's bad minutes should not meet the same ones.
const ROUND_PAUSE: Duration = Duration::from_secs(5);

/// Runs the plan; shards whose failure may pass are begun again when all others are done.
async fn rounds(
    config: &RunConfig,
    (model, devices): (&RunModel, &Arc<Devices>),
    (plan, output, workers): (&Plan, &Arc<Output>, &Option<Arc<Workers>>),
    (stop, progress): (&Arc<Stop>, &Arc<Progress>),
) -> anyhow::Result<Vec<ShardResult>> {
    let mut begin: Vec<usize> = (0..plan.todo.len()).collect();
    if workers.as_ref().is_some_and(|workers| workers.has_others()) {
        fastrand::shuffle(&mut begin);
    }
    let mut results = Vec::new();
    for round in 1.. {
        let round_results =
            wire::execute(config, model, devices, (plan, output, workers), begin, (stop, progress)).await?;
        let passes = |result: &ShardResult| result.outcome.as_ref().is_err_and(|f| f.is_retryable);
        let last = round == ROUNDS || stop.requested();
        let (again, ended): (Vec<_>, Vec<_>) =
            round_results.into_iter().partition(|result| !last && passes(result));
        results.extend(ended);
        if again.is_empty() {
            break;
        }
        tracing::warn!(shards = again.len(), "shards failed on the way; they are begun again");
        tokio::select! {
            () = tokio::time::sleep(ROUND_PAUSE) => {}
            () = stop.wait_requested() => {
                results.extend(again);
                break;
            }
        }
        progress.failed.fetch_sub(again.len(), Relaxed);
        begin = again.iter().map(|result| result.shard).collect();
    }
    Ok(results)
}

/// Ends what runs that died began to remove: rows of shards without a record, but of those that will be done.
async fn end_removals(commit_log: &CommitLog, plan: &Plan) -> anyhow::Result<()> {
    let inputs: HashSet<&str> = plan.inputs.iter().map(ShardId::as_str).collect();
    for (shard, parts) in &plan.removals {
        if inputs.contains(shard.as_str()) || plan.orphans.contains_key(shard) {
            commit_log.cancel_deletion(shard).await?;
        } else {
            tracing::info!(shard, "finished an interrupted deletion");
            commit_log.finish_deletion(shard, parts).await?;
        }
    }
    Ok(())
}

/// Removes the parts that a list had before it became shorter, once all parts that it has now are done.
async fn clear_superseded(
    commit_log: &CommitLog,
    plan: &Plan,
    results: &[ShardResult],
) -> anyhow::Result<()> {
    if plan.superseded.is_empty() {
        return Ok(());
    }
    let done: HashSet<usize> = results.iter().filter(|r| r.outcome.is_ok()).map(|r| r.shard).collect();
    let list = |task: &Task| task.shard.location.url();
    let todo = plan.todo.iter().enumerate();
    let unfinished: HashSet<String> =
        todo.filter(|(number, _)| !done.contains(number)).map(|(_, task)| list(task)).collect();
    let mut gone = Orphans::new();
    for (list, parts) in plan.superseded.iter().filter(|(list, _)| !unfinished.contains(*list)) {
        tracing::info!(list, parts = parts.len(), "the list became shorter; its last parts are removed");
        gone.extend(parts.clone());
    }
    Ok(commit_log.delete_shards(&gone).await?)
}

/// Removes shards that are not among the inputs any more.
async fn retire(commit_log: &CommitLog, plan: &Plan) -> anyhow::Result<()> {
    commit_log.delete_shards(&plan.orphans).await?;
    let inputs: HashSet<&str> = plan.inputs.iter().map(ShardId::as_str).collect();
    let is_input = |shard: &str| {
        inputs.contains(shard) || matches!(plan.split.stale_part(shard), Some(StalePart::ListUnavailable(_)))
    };
    for shard in commit_log.failures().await?.iter().filter(|shard| !is_input(shard)) {
        commit_log.delete_failure_of(shard).await?;
    }
    for (shard, parts) in plan.strays.iter().filter(|(shard, _)| !is_input(shard)) {
        tracing::info!(shard, "rows that a dead worker left are removed");
        commit_log.finish_deletion(shard, parts).await?;
    }
    Ok(())
}

/// A captioner that judges its own captions prefers what it likes to say.
fn warn_circular() {
    tracing::warn!(
        "the captioner scores its own captions, which is circular: similarities rank captions of one model, they do not compare models; --scorer MODEL lets another model judge"
    );
}
