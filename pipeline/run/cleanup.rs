//! Removes from the output what no longer belongs there, before and after a run: files of dead workers, interrupted deletions,
//! rows of shards without an input.

use std::collections::HashSet;

use anyhow::Context;
use chrono::{TimeDelta, Utc};
use recaption_input::read::StalePart;
use recaption_output::commits::{CommitLog, Seen, Standing, Workers};
use recaption_schemas::ShardId;

use super::{
    plan::{Orphans, Plan, Task},
    shard_writer::ShardResult,
};

/// Age from which what lies beside a shard that is done is nobody's, though another worker lives.
const LEFTOVER_AGE: TimeDelta = TimeDelta::hours(1);

/// Removes what attempts that came to nothing left beside shards that are done: a reader of the folders would see rows twice.
/// What may be another worker's attempt at them stays.
pub async fn clear_leftovers(
    commit_log: &CommitLog,
    plan: &Plan,
    workers: Option<&Workers>,
) -> anyhow::Result<usize> {
    let others = workers.is_some_and(Workers::are_others);
    let old = Utc::now() - LEFTOVER_AGE;
    let mut removed = 0;
    for found in &plan.leftovers {
        let nobodys = |seen: &&Seen| !others || seen.modified < old;
        let parts: Vec<Seen> = found.orphans.iter().filter(nobodys).cloned().collect();
        for one in found.stale.iter().map(Standing::path).chain(parts.iter().map(|seen| seen.path.clone())) {
            tracing::warn!(file = one, "an attempt that came to nothing left it; it is removed");
            removed += 1;
        }
        commit_log
            .clear(&found.stale, &parts, None)
            .await
            .context("what a dead worker left cannot be removed")?;
    }
    Ok(removed)
}

/// Ends what runs that died began to remove: rows of shards without a record, but of those that will be done.
pub async fn finish_deletions(commit_log: &CommitLog, plan: &Plan) -> anyhow::Result<()> {
    let inputs: HashSet<&str> = plan.inputs.iter().map(ShardId::as_str).collect();
    for (shard, parts) in &plan.removals {
        if inputs.contains(shard.as_str()) || plan.orphans.contains_key(shard) {
            commit_log.forget_removal(shard).await?;
        } else {
            tracing::info!(shard, "its removal is ended");
            commit_log.finish_removal(shard, parts).await?;
        }
    }
    Ok(())
}

/// Removes the parts that a list had before it became shorter, once all parts that it has now are done.
pub async fn clear_superseded(
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
    Ok(commit_log.remove_shards(&gone).await?)
}

/// Removes shards that are not among the inputs any more.
pub async fn retire(commit_log: &CommitLog, plan: &Plan) -> anyhow::Result<()> {
    commit_log.remove_shards(&plan.orphans).await?;
    let inputs: HashSet<&str> = plan.inputs.iter().map(ShardId::as_str).collect();
    let is_input = |shard: &str| {
        inputs.contains(shard) || matches!(plan.split.stale_part(shard), Some(StalePart::ListUnavailable(_)))
    };
    for shard in commit_log.failures().await?.iter().filter(|shard| !is_input(shard)) {
        commit_log.forget_failure_of(shard).await?;
    }
    for (shard, parts) in plan.strays.iter().filter(|(shard, _)| !is_input(shard)) {
        tracing::info!(shard, "rows that a dead worker left are removed");
        commit_log.finish_removal(shard, parts).await?;
    }
    Ok(())
}
