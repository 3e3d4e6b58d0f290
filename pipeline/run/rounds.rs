//! Runs the plan in rounds: shards that failed for a transient reason are retried when all others are done.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use anyhow::anyhow;
use recaption_output::commits::{CommitResult, Workers};

use super::{
    array_task::ArrayTask,
    collector::Collector,
    context::{RunContext, RunState},
    events::Events,
    guard::FailureGuard,
    output::Output,
    pipeline::{StreamRequest, stream},
    plan::{Mismatch, Plan},
    rank::rank,
    read_limit::ReadLimit,
    retry_rounds::retry_rounds,
    shard_writer::{ShardOutcome, ShardResult},
    source::{ShardSource, Tasks, WorkerClaims},
};

/// What a run writes: the plan's shards, into an output that other workers may share.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    /// The shards to process.
    pub plan: &'a Plan,
    /// Where their rows go.
    pub output: &'a Arc<Output>,
    /// The other workers; `None` where claims are off, or the output cannot hold them.
    pub workers: &'a Option<Arc<Workers>>,
    /// After how many samples no further shard is begun.
    pub limit: Option<u64>,
    /// In an array job, which task of it this is.
    pub task: Option<ArrayTask>,
}

/// How the rounds ended.
#[derive(Default)]
pub(super) struct Rounds {
    /// Shards that ended.
    pub results: Vec<ShardResult>,
    /// Number of shards that were not begun because enough samples were read.
    pub not_begun: usize,
}

/// Runs the plan to its end, or to the stop.
///
/// # Errors
/// When the models cannot be loaded or fail, or a stage breaks down. Shards that fail are results, not errors.
pub(super) async fn run_rounds(context: RunContext<'_>, job: Job<'_>) -> anyhow::Result<Rounds> {
    let (stop, progress) = (context.stop, context.progress);
    let mut begin: Vec<usize> = (0..job.plan.todo.len()).collect();
    if job.limit.is_some() {
        let seed = context.config.resources.seed;
        begin.sort_by_key(|shard| rank(seed, &job.plan.todo[*shard].shard.id));
    }
    let mut not_begun = 0;
    let is_retryable = |result: &ShardResult| result.outcome.as_ref().is_err_and(|f| f.is_retryable);
    let retried = |result: &ShardResult| is_retryable(result).then_some(result.shard);
    let results = retry_rounds(stop, begin, retried, async |round, begin| {
        if round > 1 {
            progress.failed.fetch_sub(begin.len(), Relaxed);
        }
        // Shards that failed were begun: they are retried whatever the limit.
        let limit = job.limit.filter(|_| round == 1);
        let task = job.task.filter(|_| round == 1);
        let Rounds { results, not_begun: left } =
            run_round(context, Job { limit, task, ..job }, begin).await?;
        not_begun += left;
        Ok(results)
    })
    .await?;
    Ok(Rounds { results, not_begun })
}

/// Runs the plan's shards of these numbers once.
async fn run_round(context: RunContext<'_>, job: Job<'_>, begin: Vec<usize>) -> anyhow::Result<Rounds> {
    let Job { plan, output, workers, limit, task } = job;
    let tasks: Arc<Tasks> = Arc::new(plan.todo.iter().cloned().collect());
    let (commit_log, location) = (output.committer.commit_log.clone(), output.location.clone());
    let claims = WorkerClaims::new(commit_log, location, Arc::clone(&tasks), workers.clone());
    let guard = FailureGuard::new(context.config.resources.max_failure_ratio);
    let collector = Collector::new(Arc::clone(output), Arc::clone(&tasks), guard);
    let source = Arc::new(match task {
        Some(task) => {
            let is_own = |shard: &usize| task.owns(&plan.todo[*shard].shard.id);
            let (own, others): (Vec<usize>, Vec<usize>) = begin.into_iter().partition(is_own);
            ShardSource::dealt(own, others, Some(claims))
        }
        None if limit.is_some() => ShardSource::fixed(begin, Some(claims)).in_order(),
        None => ShardSource::fixed(begin, Some(claims)),
    });
    if task.is_none() && workers.as_ref().is_some_and(|workers| workers.has_others()) {
        source.note_other_workers();
    }
    let request = StreamRequest { tasks, source, keep_features: false, sampling: None, limit };
    stream(context, request, |state, events| collect(state, collector, events)).await
}

async fn collect(
    state: Arc<RunState>,
    mut collector: Collector,
    mut events: Events,
) -> anyhow::Result<Rounds> {
    let mut results = Vec::new();
    while let Some(event) = events.recv().await {
        if let Err(error) = collector.take(event).await {
            state.fail(error);
        }
        on_ended(&state, collector.ended(), &mut results).await;
    }
    on_ended(&state, collector.finish().await, &mut results).await;
    let is_limited = state.limit.as_ref().is_some_and(ReadLimit::is_reached);
    Ok(Rounds { results, not_begun: if is_limited { state.source.len() } else { 0 } })
}

/// Counts shards that ended, and ends the run where its output fails.
async fn on_ended(state: &RunState, ended: Vec<ShardResult>, results: &mut Vec<ShardResult>) {
    for result in ended {
        match &result.outcome {
            Ok(ShardOutcome::ClaimedByOther) => {}
            Ok(outcome) => {
                let task = state.tasks.get(result.shard);
                let (shard, captioned) = match outcome {
                    ShardOutcome::Committed { commit, .. } => {
                        (commit.shard.as_str(), commit.counts.captioned)
                    }
                    _ => (task.as_ref().map_or("", |task| &task.shard.url), 0),
                };
                if !matches!(outcome, ShardOutcome::Committed { committed: CommitResult::Created, .. }) {
                    state.source.note_other_workers();
                }
                state.progress.committed.fetch_add(1, Relaxed);
                let by_other = !matches!(outcome, ShardOutcome::Committed { .. });
                tracing::debug!(shard, captioned, by_other, "shard committed");
            }
            Err(failure) => {
                if let Some(differences) = &failure.mismatch {
                    state.fail(Mismatch { differences: differences.clone() }.into());
                } else if failure.ends_run {
                    state.fail(anyhow!("the output cannot be written: {}", failure.error));
                }
                state.progress.failed.fetch_add(1, Relaxed);
                if failure.class.is_transient() {
                    tracing::error!(error = failure.error, "shard failed");
                }
                if let Some(claims) = state.source.claims() {
                    claims.release(result.shard).await;
                }
            }
        }
        results.push(result);
    }
}
