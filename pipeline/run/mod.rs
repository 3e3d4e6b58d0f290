//! `recaption run`: plan, wire, account.
//!
//! ```text
//! readers (tokio) -> decode (rayon) -> lanes (one thread each, own the models) -> shard writers (tokio)
//!        \_________________________ rejects ____________________________________/
//! ```
//! Every arrow is a bounded channel. Readers are held back by a window of open shards and a budget of bytes, so memory
//! does not grow with the size of a shard or of the dataset.

mod captioners;
mod collector;
mod devices;
mod failures;
mod guard;
mod lock;
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
use chrono::{DateTime, Utc};
use lock::Locked;
use plan::Task;
use recaption_stages::{
    commits::{Ledger, REMOVALS, Records},
    read::{LISTS, Leftover, Splitter},
    schemas::ShardId,
    shards::list_shards,
    store::{Location, StoreKind, Stores},
};
use shard_writer::ShardResult;

pub(crate) use collector::Event;
pub use devices::{DeviceReport, Devices};
pub use model::RunModel;
pub(crate) use plan::differences;
pub use plan::{Mismatch, Plan};
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
    let output = open_output(&mut stores, &config.output)?;
    let lock = if options.lock { Some(lock::lock(&output, config.lock_seconds).await?) } else { None };
    let lock = match lock {
        Some(Locked::Elsewhere { holder }) => return Err(LockedOut { output: output.url(), holder }.into()),
        Some(Locked::Here(lock)) => Some(lock),
        None => None,
    };
    let report = run_unlocked((stores, output), config, options, stop, reporter).await;
    if let Some(lock) = lock {
        lock.release().await;
    }
    report
}

async fn run_unlocked(
    (mut stores, output): (Stores, Location),
    config: &RunConfig,
    options: RunOptions,
    stop: &Arc<Stop>,
    reporter: &Reporter,
) -> anyhow::Result<RunReport> {
    let mut model = RunModel::open(config)?;
    let ledger = Ledger::new(output.clone());
    // Both at once: in a bucket each takes a request per thousand shards.
    let listing = list_shards(&mut stores, &config.shards, config.read.format);
    let (shards, records, removals) = tokio::join!(listing, ledger.list(), ledger.removals());
    let (shards, records) = (shards?, records?);
    let (there, gone): (Vec<_>, Vec<_>) =
        removals?.into_iter().partition(|shard| records.contains_key(shard));
    let scorer = model.scorer.as_ref().map(|scorer| scorer.digest.as_str());
    let keys = config.row_keys(&model.folder.digest, scorer, model.settings.max_tokens);
    let splitter = Splitter { settings: &config.read, output: &output, remember: true };
    let plan = Plan::make(shards, records, (&ledger, splitter), keys, &options).await?;
    tracing::info!(
        shards = plan.todo.len() + plan.done.len(),
        done = plan.done.len(),
        todo = plan.todo.len(),
        bytes = plan.bytes(),
        "planned"
    );
    end_removals(&ledger, &plan, (&there, &gone)).await.context("rows that a run left cannot be removed")?;
    let mut report = RunReport::begin(config, &model, &plan);
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
        let _bar = reporter.start(&progress);
        let results = rounds(config, (&model, &devices), (&plan, &output), (stop, &progress)).await;
        report.computed_by(&devices);
        results?
    };
    failures::remember(&ledger, &plan, &results, &mut report).await;
    clear_superseded(&ledger, &plan, &results)
        .await
        .context("parts that lists no longer have could not be removed")?;
    if options.retire && !stop.requested() {
        retire(&ledger, &plan).await.context("shards without an input could not be retired")?;
        report.retired = true;
    }
    report.requests_retried = stores.retried();
    report.interrupted = stop.requested();
    report.write(&output).await.context("the run's record could not be written")?;
    Ok(report)
}

/// Rounds over shards that failed on the way.
const ROUNDS: u32 = 3;
/// Pause before each round but the first; what failed with a store's bad minutes should not meet the same ones.
const ROUND_PAUSE: Duration = Duration::from_secs(5);

/// Runs the plan; shards whose failure may pass are begun again when all others are done.
async fn rounds(
    config: &RunConfig,
    (model, devices): (&RunModel, &Arc<Devices>),
    (plan, output): (&Plan, &Location),
    (stop, progress): (&Arc<Stop>, &Arc<Progress>),
) -> anyhow::Result<Vec<ShardResult>> {
    let mut begin: Vec<usize> = (0..plan.todo.len()).collect();
    let mut results = Vec::new();
    for round in 1.. {
        let round_results =
            wire::execute(config, model, devices, (plan, output), begin, (stop, progress)).await?;
        let passes = |result: &ShardResult| result.outcome.as_ref().is_err_and(|f| f.may_pass);
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
async fn end_removals(
    ledger: &Ledger,
    plan: &Plan,
    (there, gone): (&[String], &[String]),
) -> anyhow::Result<()> {
    let inputs: HashSet<&str> = plan.inputs.iter().map(ShardId::as_str).collect();
    for shard in there {
        ledger.forget_removal(shard).await?;
    }
    for shard in gone {
        if inputs.contains(shard.as_str()) {
            ledger.forget_removal(shard).await?;
        } else {
            tracing::info!(shard, "its removal is ended");
            ledger.finish_removal(shard).await?;
        }
    }
    Ok(())
}

/// Removes the parts that a list had before it became shorter, once all parts that it has now are done.
async fn clear_superseded(ledger: &Ledger, plan: &Plan, results: &[ShardResult]) -> anyhow::Result<()> {
    if plan.superseded.is_empty() {
        return Ok(());
    }
    let done: HashSet<usize> = results.iter().filter(|r| r.outcome.is_ok()).map(|r| r.shard).collect();
    let list = |task: &Task| task.shard.location.url();
    let todo = plan.todo.iter().enumerate();
    let unfinished: HashSet<String> =
        todo.filter(|(number, _)| !done.contains(number)).map(|(_, task)| list(task)).collect();
    let mut gone = Records::new();
    for (list, parts) in plan.superseded.iter().filter(|(list, _)| !unfinished.contains(*list)) {
        tracing::info!(list, parts = parts.len(), "the list became shorter; its last parts are removed");
        gone.extend(parts.clone());
    }
    Ok(ledger.remove_shards(&gone).await?)
}

/// Removes shards that are not among the inputs any more.
async fn retire(ledger: &Ledger, plan: &Plan) -> anyhow::Result<()> {
    ledger.remove_shards(&plan.orphans).await?;
    let inputs: HashSet<&str> = plan.inputs.iter().map(ShardId::as_str).collect();
    let is_input = |shard: &str| {
        inputs.contains(shard) || matches!(plan.split.leftover(shard), Some(Leftover::Unknown(_)))
    };
    for shard in ledger.failures().await?.iter().filter(|shard| !is_input(shard)) {
        ledger.forget_failure_of(shard).await?;
    }
    for shard in ledger.strays().await?.iter().filter(|shard| !is_input(shard)) {
        tracing::info!(shard, "rows that a dead worker left are removed");
        ledger.finish_removal(shard).await?;
    }
    Ok(())
}

/// A captioner that judges its own captions prefers what it likes to say.
fn warn_circular() {
    tracing::warn!(
        "the captioner scores its own captions, which is circular: similarities rank captions of one model, they do not compare models; --scorer MODEL lets another model judge"
    );
}

pub(crate) fn open_output(stores: &mut Stores, url: &str) -> anyhow::Result<Location> {
    let output = stores.locate(url)?;
    match output.kind {
        StoreKind::Http => anyhow::bail!("output {}: a web server cannot be written to", output.url()),
        StoreKind::Hub => {
            anyhow::bail!("output {}: the Hugging Face hub cannot be written to", output.url());
        }
        StoreKind::Local => remove_stale_uploads(&output)?,
        StoreKind::Bucket => {}
    }
    Ok(output)
}

/// Files that a killed run left half-written. object_store stages local uploads as `NAME#N` and renames them; they are
/// invisible to readers, but would pile up. Younger ones may belong to another worker.
fn remove_stale_uploads(output: &Location) -> anyhow::Result<()> {
    const STALE: std::time::Duration = std::time::Duration::from_secs(3600);
    let root = local_path(output);
    for folder in [
        "captions",
        "rejects",
        "_recaption/shards",
        "_recaption/runs",
        "_recaption/failures",
        LISTS,
        REMOVALS,
    ] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let staged =
                name.to_string_lossy().rsplit_once('#').is_some_and(|(_, n)| n.parse::<u32>().is_ok());
            let old = entry
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|t| t.elapsed().is_ok_and(|e| e > STALE));
            if staged && old {
                std::fs::remove_file(entry.path())
                    .with_context(|| format!("cannot remove the stale upload {}", entry.path().display()))?;
            }
        }
    }
    Ok(())
}

/// The path of a place on this machine.
pub(crate) fn local_path(location: &Location) -> std::path::PathBuf {
    std::path::PathBuf::from("/").join(object_path_to_file(location.path.as_ref()))
}

/// object_store escapes a few characters in paths of local files.
fn object_path_to_file(path: &str) -> String {
    url::Url::parse(&format!("file:///{path}"))
        .ok()
        .and_then(|u| u.to_file_path().ok())
        .map_or_else(|| path.to_owned(), |p| p.to_string_lossy().trim_start_matches('/').to_owned())
}
