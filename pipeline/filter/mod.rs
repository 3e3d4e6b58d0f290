//! `recaption filter`: a second pass over a finished output, into a dataset of its own.
//!
//! Two readings of one column find the threshold, then shards are copied, several at a time. The new dataset has commit records
//! like a run's, so an interrupted pass continues where it stopped. `_recaption/filter.json` is written last: it marks the
//! dataset as complete.

mod concurrency;
mod job;
mod locations;
mod plan;
mod record;
mod threshold;

use std::sync::Arc;

use anyhow::Context;
use recaption_output::{
    commits::CommitLog,
    second_pass::{CopyCounts, CopyJob, ScoreColumn, Selection, SourceDataset, copy_shard},
};
use recaption_schemas::metadata_keys;
use recaption_store::{Stores, write_json};

pub use job::FilterJob;
pub(crate) use record::FILTER_RECORD;
pub use record::FilterReport;

use self::{concurrency::for_each_shard, locations::open_locations, plan::Plan, threshold::find_threshold};
use crate::{config::ConfigError, run};

/// Runs a second pass.
///
/// # Errors
/// Source and output overlap, the output holds something else, the source is not a finished output, or a store fails. The
/// same command then continues where this one stopped.
pub async fn filter(job: &FilterJob) -> anyhow::Result<FilterReport> {
    let mut stores = Stores::new(job.stores);
    let (from, output) = open_locations(&mut stores, job)?;
    let source = SourceDataset::open(from).await?;
    if source.failed > 0 {
        tracing::warn!(shards = source.failed, "shards of the source failed and have no rows to choose from");
    }
    let earlier = earlier_passes(&source, job).await?;
    let (threshold, totals) = find_threshold(&source, job).await?;
    if job.by.is_matching() && totals.read > 0 && totals.missing == totals.read {
        let what = match job.by {
            ScoreColumn::OrgItm => "no row has org_itm: the input had no captions",
            _ => {
                "no row has itm: the run's model.scorer has no matching head, or score.itm_top_k was 0; use --by similarity"
            }
        };
        return Err(ConfigError { origin: source.location.url(), what: what.to_owned() }.into());
    }
    let selection = Selection { by: job.by, cutoff: job.cutoff, threshold, column: job.column.clone() };
    let mut configuration = source.configuration.clone();
    configuration.insert(format!("selection.{}", earlier.len() + 1), selection.describe());
    let commit_log = CommitLog::new(output.clone());
    let plan = Plan::make(&source, &output, &commit_log, &configuration, job.overwrite).await?;
    let mut report = FilterReport::begin(&source, &output, &selection, totals, (plan.todo.len(), plan.done));
    tracing::info!(
        selection = selection.describe(),
        rows = totals.read,
        selected = totals.selected,
        shards = plan.todo.len(),
        done = plan.done,
        "planned"
    );
    let mut passes = earlier;
    passes.push(serde_json::to_value(selection.record())?);
    let passes = serde_json::Value::Array(passes).to_string();
    let committer = commit_log.committer(configuration, job.overwrite).await?;
    // The output is claimed before anything in it is deleted.
    if !plan.todo.is_empty() {
        committer.begin().await.map_err(|e| run::unclaimed(e, &committer.configuration))?;
    }
    plan.clear(&output, &commit_log).await?;
    let copy = Arc::new(CopyJob { source, output: output.clone(), committer, selection, passes });
    let copied = copy_all(&copy, &plan).await?;
    if plan.done == 0 && copied != totals {
        anyhow::bail!(
            "{} changed while it was read: {} rows were {} before. Run the same command again",
            copy.source.location.url(),
            copied.read,
            totals.read
        );
    }
    report.end();
    write_json(&output.child(FILTER_RECORD), &report).await?;
    Ok(report)
}

/// Returns the passes that made the source, from its parts' metadata; rejects a column that the source has already.
async fn earlier_passes(source: &SourceDataset, job: &FilterJob) -> anyhow::Result<Vec<serde_json::Value>> {
    // A source has shards, and their parts are alike.
    let schema = source.captions(&source.shards[0], None).await?.schema();
    if let Some(name) = job.column.as_ref().filter(|name| schema.index_of(name).is_ok()) {
        let what = format!("the source has a column `{name}` already; choose another name");
        return Err(ConfigError { origin: format!("--column {name}"), what }.into());
    }
    let written = schema.metadata().get(metadata_keys::FILTER);
    let passes = written.map(|text| serde_json::from_str(text)).transpose();
    passes.map(Option::unwrap_or_default).context("the source's `recaption.filter` metadata is malformed")
}

async fn copy_all(job: &Arc<CopyJob>, plan: &Plan) -> anyhow::Result<CopyCounts> {
    let mut copied = CopyCounts::default();
    let work = |i: usize| {
        let (job, todo) = (Arc::clone(job), Arc::clone(&plan.todo));
        async move {
            let task = &todo[i];
            let copied = copy_shard(&job, task).await?;
            tracing::debug!(
                shard = task.shard.id,
                rows = copied.read,
                selected = copied.selected,
                "committed"
            );
            Ok(copied)
        }
    };
    for_each_shard("copying", plan.todo.len(), work, |counts| copied.add(counts)).await?;
    Ok(copied)
}
