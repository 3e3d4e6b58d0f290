//! Removes from the output what no longer belongs there, before and after a run: files of dead workers, interrupted deletions,
//! rows of shards without an input.

use std::collections::HashSet;

use anyhow::Context;
use chrono::{TimeDelta, Utc};
use recaption_input::read::StalePart;
use recaption_output::commits::{CommitLog, ExistingPart, ExistingRecord, ShardState, Workers};

use super::{
    plan::{Orphans, Plan},
    shard_writer::ShardResult,
    task::Task,
};

/// Age from which files of an unfinished attempt count as abandoned, even if another worker is running.
const LEFTOVER_AGE: TimeDelta = TimeDelta::hours(1);

/// Removes files that unfinished attempts left of shards that are done: a reader of the folders would see rows twice. Files that
/// may belong to another worker's attempt stay.
///
/// # Errors
/// When one cannot be removed.
pub(crate) async fn clear_leftovers(
    commit_log: &CommitLog,
    leftovers: &[ShardState],
    workers: Option<&Workers>,
) -> anyhow::Result<usize> {
    if leftovers.is_empty() {
        return Ok(0);
    }
    let others = match workers {
        Some(workers) => workers.look_for_others().await,
        None => false,
    };
    let old = Utc::now() - LEFTOVER_AGE;
    let mut removed = 0;
    for found in leftovers {
        let is_abandoned = |seen: &&ExistingPart| !others || seen.modified < old;
        let parts: Vec<ExistingPart> = found.orphaned_parts.iter().filter(is_abandoned).cloned().collect();
        for one in found
            .stale_records
            .iter()
            .map(ExistingRecord::path)
            .chain(parts.iter().map(|seen| seen.path.clone()))
        {
            tracing::warn!(file = one, "removing a file of an unfinished attempt");
            removed += 1;
        }
        commit_log
            .delete_stale(&found.stale_records, &parts, None)
            .await
            .context("files of a dead worker cannot be removed")?;
    }
    Ok(removed)
}

/// Finishes deletions that earlier runs began: rows of shards without a record, except shards that will be processed.
pub(super) async fn finish_deletions(commit_log: &CommitLog, plan: &Plan) -> anyhow::Result<()> {
    let is_kept = |shard: &str| plan.inputs.contains(shard) || plan.orphans.contains_key(shard);
    finish_deletions_of(commit_log, &plan.removals, is_kept).await
}

/// Finishes deletions of these shards with their parts, except of those that are inputs or have a record: `is_kept`.
///
/// # Errors
/// When the store fails for good.
pub(crate) async fn finish_deletions_of(
    commit_log: &CommitLog,
    removals: &[(String, Vec<ExistingPart>)],
    is_kept: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    for (shard, parts) in removals {
        if is_kept(shard) {
            commit_log.cancel_deletion(shard).await?;
        } else {
            tracing::info!(shard, "finished an interrupted deletion");
            commit_log.finish_deletion(shard, parts).await?;
        }
    }
    Ok(())
}

/// Removes parts beyond the end of a list that became shorter, once all its current parts are done.
pub(super) async fn clear_superseded(
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
        tracing::info!(list, parts = parts.len(), "list became shorter; removing its last parts");
        gone.extend(parts.clone());
    }
    Ok(commit_log.delete_shards(&gone).await?)
}

/// Removes shards that are no longer among the inputs.
pub(super) async fn retire(commit_log: &CommitLog, plan: &Plan) -> anyhow::Result<()> {
    commit_log.delete_shards(&plan.orphans).await?;
    let is_input = |shard: &str| {
        plan.inputs.contains(shard)
            || matches!(plan.split.stale_part(shard), Some(StalePart::ListUnavailable(_)))
    };
    for shard in commit_log.failures().await?.iter().filter(|shard| !is_input(shard)) {
        commit_log.delete_failure_of(shard).await?;
    }
    for (shard, parts) in plan.strays.iter().filter(|(shard, _)| !is_input(shard)) {
        tracing::info!(shard, "removing rows of a dead worker");
        commit_log.finish_deletion(shard, parts).await?;
    }
    Ok(())
}
