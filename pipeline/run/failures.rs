//! Failures across runs: a shard that fails the same way at the same bytes fails permanently; anything else may be transient.

use recaption_output::commits::{CommitLog, CommitResult};
use recaption_schemas::{FailureClass, FailureRecord, ShardId};

use super::{
    plan::Plan,
    record::{FailedShard, RunReport},
    shard_writer::{ShardOutcome, ShardResult},
};

/// Adds results to the report and brings the failure records of the output up to date.
pub(super) async fn remember(
    commit_log: &CommitLog,
    plan: &Plan,
    results: &[ShardResult],
    report: &mut RunReport,
) {
    let earlier: std::collections::HashSet<String> = match commit_log.failures().await {
        Ok(names) => names.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "earlier failures cannot be listed; all are treated as transient");
            return collect(plan, results, report);
        }
    };
    collect(plan, results, report);
    // A shard may be back as it was: its rows are still there, and its failure is over.
    for id in plan.done.iter().filter(|id| earlier.contains(id.as_str())) {
        forget(commit_log, id).await;
    }
    for result in results {
        let task = &plan.todo[result.shard];
        let id = &task.shard.id;
        match &result.outcome {
            Ok(_) if earlier.contains(id.as_str()) => forget(commit_log, id).await,
            Ok(_) => {}
            Err(failure) => {
                let before = if earlier.contains(id.as_str()) {
                    commit_log.failure(id).await.ok().flatten()
                } else {
                    None
                };
                let input = task.shard.fingerprint();
                // By class and not by message, which may hold a duration.
                let same = before.as_ref().is_some_and(|b| b.input == input && b.class == failure.class);
                let attempts = if same { before.map_or(1, |b| b.attempts + 1) } else { 1 };
                if let Some(entry) = report.shards_failed.iter_mut().find(|f| f.shard == task.shard.url) {
                    entry.attempts = attempts;
                    entry.permanent = same && failure.class != FailureClass::Transport;
                }
                let record = FailureRecord {
                    shard: task.shard.url.clone(),
                    input,
                    class: failure.class,
                    error: failure.error.clone(),
                    attempts,
                };
                if let Err(error) = commit_log.record_failure(id, &record).await {
                    tracing::warn!(%error, "a failure could not be recorded");
                }
            }
        }
    }
}

async fn forget(commit_log: &CommitLog, id: &ShardId) {
    if let Err(error) = commit_log.delete_failure(id).await {
        tracing::warn!(%error, "an old failure record could not be removed");
    }
}

fn collect(plan: &Plan, results: &[ShardResult], report: &mut RunReport) {
    for result in results {
        let url = &plan.todo[result.shard].shard.url;
        match &result.outcome {
            // No shard of a run is left to another worker.
            Ok(ShardOutcome::ClaimedByOther) => {}
            Ok(ShardOutcome::CommittedByOther) => report.shards_done_by_others += 1,
            Ok(ShardOutcome::ProcessedTwice) => {
                report.shards_done_by_others += 1;
                report.shards_done_twice += 1;
            }
            Ok(ShardOutcome::Committed { commit, committed }) => {
                report.shards_done += 1;
                report.shards_done_twice += usize::from(*committed == CommitResult::AlreadyExists);
                report.counts.add(&commit.counts);
                if let Some(damage) = &commit.damaged {
                    report.shards_damaged.push(format!("{url}: {} (byte {})", damage.detail, damage.offset));
                }
            }
            Err(failure) => report.shards_failed.push(FailedShard {
                shard: url.clone(),
                class: failure.class,
                error: failure.error.clone(),
                attempts: 1,
                permanent: false,
            }),
        }
    }
}
