//! `recaption filter`: a second pass over a finished output, into a dataset of its own.
//!
//! Two readings of one column find the threshold, then shards are copied side by side. The new dataset has commit records
//! like a run's, so a killed pass is taken up where it stopped; `_recaption/filter.json` is written last of all and says
//! that the dataset is complete.

mod places;
mod plan;
mod record;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{StreamExt, stream};
use recaption_output::{
    commits::CommitLog,
    second_pass::{
        CoarseHistogram, CopyCounts, CopyJob, Cutoff, ScoreColumn, SecondPassError, Selection, SourceDataset,
        copy_shard,
    },
};
use recaption_schemas::metadata_keys;
use recaption_store::{Location, Stores, write_json};

pub use record::FilterReport;

use self::{places::open_places, plan::Plan, record::RECORD};
use crate::{config::ConfigError, run};

/// Shards in work at the same time, at most: each holds a row group or two.
const MAX_WORKERS: usize = 8;
/// Shards in work at the same time, at least: one hides the other's latency.
const MIN_WORKERS: usize = 2;
/// How often a line is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct FilterJob {
    /// The output of a run, or of an earlier pass.
    pub source: String,
    /// Where the new dataset goes.
    pub output: String,
    /// The column that decides.
    pub by: ScoreColumn,
    /// Where the cut is.
    pub cutoff: Cutoff,
    /// Keep all rows and mark the selected ones in a column of this name.
    pub column: Option<String>,
    /// Replace what another pass or run left in the new dataset's place.
    pub overwrite: bool,
}

/// Runs the pass to its end.
///
/// # Errors
/// Places that overlap, a new dataset's place that holds something else, a source that is no finished output
/// ([`SecondPassError`]), a store that refuses. The same command then goes on where this one stopped.
pub async fn filter(job: &FilterJob) -> anyhow::Result<FilterReport> {
    let mut stores = Stores::default();
    let (from, output) = open_places(&mut stores, job)?;
    let source = SourceDataset::open(from).await?;
    if source.failed > 0 {
        tracing::warn!(shards = source.failed, "shards of the source failed and have no rows to choose from");
    }
    let earlier = earlier_passes(&source, job).await?;
    let (threshold, totals) = find_threshold(&source, job).await?;
    let selection = Selection { by: job.by, cutoff: job.cutoff, threshold, column: job.column.clone() };
    let mut configuration = source.configuration.clone();
    configuration.insert(format!("selection.{}", earlier.len() + 1), selection.describe());
    let commit_log = CommitLog::new(output.clone());
    let plan = Plan::make(&source, &output, &commit_log, &configuration, job.overwrite).await?;
    let mut report = FilterReport::begin(&source, &output, &selection, totals, &plan);
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
    // The place is claimed before anything in it goes.
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
    write_json(&output.child(RECORD), &report).await?;
    Ok(report)
}

/// What the source's parts say of passes before this one; refuses a column that they have already.
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

fn workers() -> usize {
    std::thread::available_parallelism().map_or(MIN_WORKERS, Into::into).clamp(MIN_WORKERS, MAX_WORKERS)
}

/// Does `work` for shards `0..count` side by side; after the first error none is begun, and those in hand end first, so that
/// uploads are closed or given up. `doing` is for the log.
async fn side_by_side<T, W>(
    doing: &str,
    count: usize,
    work: impl Fn(usize) -> W,
    mut take: impl FnMut(T),
) -> anyhow::Result<()>
where
    T: Send + 'static,
    W: Future<Output = Result<T, SecondPassError>> + Send + 'static,
{
    let failed = AtomicBool::new(false);
    let mut first = None;
    let mut results = stream::iter(0..count)
        .take_while(|_| std::future::ready(!failed.load(Relaxed)))
        .map(|i| tokio::spawn(work(i)))
        .buffer_unordered(workers());
    let (mut done, mut told) = (0, Instant::now());
    while let Some(result) = results.next().await {
        match result.context("a worker broke down").and_then(|r| Ok(r?)) {
            Ok(result) => take(result),
            Err(error) => {
                failed.store(true, Relaxed);
                first.get_or_insert(error);
            }
        }
        done += 1;
        if told.elapsed() >= LOG_EVERY {
            told = Instant::now();
            tracing::info!(doing, shards_done = done, shards = count, "progress");
        }
    }
    first.map_or(Ok(()), Err)
}

/// The threshold, and what it will leave: one reading of the score's column for a given threshold, two for a share.
async fn find_threshold(
    source: &SourceDataset,
    job: &FilterJob,
) -> anyhow::Result<(Option<f32>, CopyCounts)> {
    let shared = Arc::new(source.clone());
    let by = job.by;
    let count = source.shards.len();
    let share = match job.cutoff {
        Cutoff::AtLeast(least) => {
            let mut totals = CopyCounts::default();
            let work = |i: usize| {
                let source = Arc::clone(&shared);
                async move {
                    let mut counts = CopyCounts::default();
                    let take = |score: Option<f32>| {
                        counts.read += 1;
                        counts.selected += u64::from(score.is_some_and(|score| score >= least));
                        counts.missing += u64::from(score.is_none());
                    };
                    source.scores(&source.shards[i], by, take).await?;
                    Ok(counts)
                }
            };
            side_by_side("counting", count, work, |counts| totals.add(counts)).await?;
            return Ok((Some(least), totals));
        }
        Cutoff::KeepTop(share) => share,
    };
    let mut coarse = CoarseHistogram::default();
    let work = |i: usize| {
        let source = Arc::clone(&shared);
        async move {
            let mut counts = CoarseHistogram::default();
            source.scores(&source.shards[i], by, |score| counts.push(score)).await?;
            Ok(counts)
        }
    };
    side_by_side("first reading", count, work, |counts| coarse.merge(&counts)).await?;
    let mut totals =
        CopyCounts { read: coarse.scored + coarse.missing, selected: 0, missing: coarse.missing };
    let Some(mut fine) = coarse.refine(share.of(coarse.scored)) else { return Ok((None, totals)) };
    let empty = Arc::new(fine.clone());
    let work = |i: usize| {
        let (source, mut counts) = (Arc::clone(&shared), (*empty).clone());
        async move {
            let take = |score: Option<f32>| score.into_iter().for_each(|score| counts.push(score));
            source.scores(&source.shards[i], by, take).await?;
            Ok(counts)
        }
    };
    side_by_side("second reading", count, work, |counts| fine.merge(&counts)).await?;
    let (threshold, selected) = fine.threshold().with_context(|| {
        format!("{} changed between two readings. Run the same command again", source.location.url())
    })?;
    totals.selected = selected;
    Ok((Some(threshold), totals))
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
    side_by_side("copying", plan.todo.len(), work, |counts| copied.add(counts)).await?;
    Ok(copied)
}

/// Makes the dataset incomplete until the pass has ended.
async fn forget_record(output: &Location) -> anyhow::Result<()> {
    Ok(output.child(RECORD).delete().await?)
}
