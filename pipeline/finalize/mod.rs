//! `recaption finalize OUT`: whether all inputs are committed, the sums over all records, and a clean output.
//!
//! ```text
//! inputs, commit records, failure records -> Comparison -> Totals -> OUT/_recaption/totals.json, exit code
//! records of runs ----------------------------------------^            OUT/report.html
//! ```
//!
//! It may run at any time, several times, and be killed at any moment: it joins the workers of the output as one that processes
//! nothing, changes no row, and deletes what dead workers left only when no other worker lives. `totals.json` depends on inputs and
//! records alone, so that two calls write the same bytes.
//!
//! | file | what |
//! |---|---|
//! | `job` | the request |
//! | `totals` | commit records and comparison -> sums |
//! | `runs` | records of runs -> sums |
//! | `report` | what was found and done, as text and JSON |

mod job;
mod report;
mod runs;
mod totals;

use std::collections::{BTreeMap, HashSet};

use anyhow::Context;
use recaption_input::read::Split;
use recaption_output::{
    commits::{CommitLog, OutputConfiguration, OutputScan, RecordName, Workers},
    layout::TOTALS,
};
use recaption_store::{Location, StoreKind, Stores, write_json};

use crate::{
    config::{ConfigError, RunConfig},
    report::{self as page, ReportJob, ReportTarget},
    run::{Comparison, clear_leftovers, differences, finish_deletions_of, list_inputs, read_failures},
};

pub(crate) use self::{
    job::{FinalizeJob, PageOptions},
    report::FinalReport,
    totals::is_complete,
};
use self::{runs::RunTotals, totals::Totals};

/// Keys that change rows and depend on models, which are not loaded here.
const OF_MODELS: [&str; 3] = ["model.captioner", "model.scorer", "caption.max_tokens"];

/// Checks, sums up and cleans an output.
///
/// # Errors
/// Returns an error when inputs or output cannot be listed or read, or the output cannot be written. Shards that are not done are
/// no error: the report has them.
pub(crate) async fn finalize(
    mut stores: Stores,
    output: Location,
    job: &FinalizeJob,
) -> anyhow::Result<FinalReport> {
    // As in a run, before the records are listed: whoever leaves last knows that no listing predates its own work.
    let workers = match job.config.resources.claim_lease {
        Some(lease) => Some(Workers::join(&output, lease).await.context("the output cannot be written")?),
        None => None,
    };
    let report = finalize_joined((&mut stores, &output), job, workers.as_ref()).await;
    if let Some(workers) = workers {
        workers.leave().await;
    }
    let mut report = report?;
    if report.totals.has_rows()
        && let Some(options) = job.page
    {
        match page::report_over(stores, &page_job(&output, job, options)).await {
            Ok(summary) => report.report = Some(summary.file),
            // A worker may have replaced a part that was about to be read.
            Err(error) if report.workers > 0 => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the report was not written, since workers are active"
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

async fn finalize_joined(
    (stores, output): (&mut Stores, &Location),
    job: &FinalizeJob,
    workers: Option<&Workers>,
) -> anyhow::Result<FinalReport> {
    // Without claims nobody knows who lives.
    let others = match workers {
        Some(workers) => Some(workers.settle().await.context("the workers of the output cannot be listed")?),
        None => None,
    };
    let commit_log = CommitLog::new(output.clone());
    let (scan, failures, claimed, removals) = tokio::try_join!(
        commit_log.scan(),
        read_failures(&commit_log),
        commit_log.configuration(),
        commit_log.pending_deletions()
    )?;
    if let Some(claimed) = claimed.as_ref().filter(|_| job.must_match) {
        refuse_other(&job.config, claimed)?;
    }
    let claimed = claimed.map(|configuration| configuration.fingerprint);
    let split = list_inputs(stores, &job.config, output, &scan).await?;
    let comparison = Comparison::new(&scan, &split, claimed.as_deref(), &failures);
    let totals = Totals::new(&scan, &split, &comparison, claimed, RunTotals::of(output).await?);
    let mut removed = 0;
    // Looked up again: a worker may have joined since.
    let alone = match workers {
        Some(workers) if others == Some(0) && workers.settle().await? == 0 => Some(workers),
        _ => None,
    };
    if let (Some(workers), Some(claimed)) = (alone, &totals.configuration) {
        removed = clean((&commit_log, scan), (&split, claimed), &removals, workers).await?;
    }
    let place = output.child(TOTALS);
    write_json(&place, &totals).await.context("the totals cannot be written")?;
    Ok(FinalReport {
        output: output.url(),
        inputs: job.origin.clone(),
        workers: others.unwrap_or(0),
        leftovers_removed: removed,
        unfinished_deletions: if alone.is_some() { 0 } else { removals.len() },
        totals,
        written: place.url(),
        report: None,
        open: comparison.open,
    })
}

/// Rejects a configuration that the output was not made with: its inputs may be others too.
///
/// # Errors
/// [`ConfigError`] that names the keys.
fn refuse_other(config: &RunConfig, claimed: &OutputConfiguration) -> Result<(), ConfigError> {
    let known = |keys: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let known = keys.iter().filter(|(key, _)| !OF_MODELS.contains(&key.as_str()));
        known.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    // Whether the scorer matches is known of the output alone.
    let is_matched = claimed.configuration.contains_key("score.itm_top_k");
    let itm_top_k = if is_matched { config.score.itm_top_k } else { 0 };
    let keys = config.row_keys("", None, (0, itm_top_k));
    let found = differences(&known(&claimed.configuration), &known(&keys));
    if found.is_empty() {
        return Ok(());
    }
    let what = format!(
        "the output was made with another configuration; {found}. Give the configuration of its run, with the same --set"
    );
    Err(ConfigError { origin: "--config".to_owned(), what })
}

/// Removes what dead workers left of shards that are done, and finishes their deletions. Returns the number of files removed.
async fn clean(
    (commit_log, mut scan): (&CommitLog, OutputScan),
    (split, claimed): (&Split, &str),
    removals: &[String],
    workers: &Workers,
) -> anyhow::Result<usize> {
    let inputs: HashSet<&str> = split.shards.iter().map(|shard| shard.id.as_str()).collect();
    let removals: Vec<_> = removals.iter().map(|shard| (shard.clone(), scan.parts_of(shard))).collect();
    let has_record: HashSet<String> = scan.records().map(|(shard, _)| shard.to_owned()).collect();
    let mut leftovers = Vec::new();
    for shard in &split.shards {
        let name = RecordName { input: shard.fingerprint(), configuration: claimed.to_owned() };
        if scan.done(&shard.url, &name).is_some() {
            leftovers.push(scan.take(&shard.url, &name));
        }
    }
    let removed = clear_leftovers(commit_log, &leftovers, Some(workers)).await?;
    let is_kept = |shard: &str| inputs.contains(shard) || has_record.contains(shard);
    finish_deletions_of(commit_log, &removals, is_kept).await?;
    Ok(removed)
}

fn page_job(output: &Location, job: &FinalizeJob, options: PageOptions) -> ReportJob {
    ReportJob {
        // Absolute, since the directory may be another by now.
        output: match output.kind {
            StoreKind::Local => output.local_path().display().to_string(),
            _ => output.url(),
        },
        target: ReportTarget::Output,
        samples: page::DEFAULT_SAMPLES,
        seed: 0,
        images: options.images,
        image_bytes: page::DEFAULT_IMAGE_BYTES,
        fetch: false,
        stores: job.config.stores,
    }
}
