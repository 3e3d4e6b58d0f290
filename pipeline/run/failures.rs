//! Failures across runs: a shard that fails the same way at the same bytes fails permanently; anything else may be transient.

use std::collections::HashSet;

use recaption_output::commits::{CommitLog, CommitResult};
use recaption_schemas::{FailureRecord, ShardId};

use super::{
    plan::Plan,
    record::{FailedShard, RunReport},
    shard_writer::{ShardFailure, ShardOutcome, ShardResult},
};

/// Adds results to the report and brings the failure records of the output up to date.
pub(super) async fn remember(
    commit_log: &CommitLog,
    plan: &Plan,
    results: &[ShardResult],
    report: &mut RunReport,
) {
    let earlier: HashSet<String> = match commit_log.failures().await {
        Ok(names) => names.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "earlier failures cannot be listed; all are treated as transient");
            for result in results {
                report.add(&plan.todo[result.shard].shard.url, &result.outcome);
            }
            return;
        }
    };
    // A shard may be back as it was: its rows are still there, and its failure is over.
    for id in plan.done.iter().map(|done| &done.shard.id).filter(|id| earlier.contains(id.as_str())) {
        forget(commit_log, id).await;
    }
    for result in results {
        let task = &plan.todo[result.shard];
        let (url, id) = (&task.shard.url, &task.shard.id);
        report.add(url, &result.outcome);
        match &result.outcome {
            Ok(_) if earlier.contains(id.as_str()) => forget(commit_log, id).await,
            Ok(_) => {}
            Err(failure) => {
                let failed = FailedInput { url, id, fingerprint: task.shard.fingerprint() };
                let record = record(commit_log, failed, failure, earlier.contains(id.as_str())).await;
                report.note_attempts(&record);
            }
        }
    }
}

/// A shard that failed.
#[derive(Clone, Debug)]
pub(crate) struct FailedInput<'a> {
    /// URL, redacted.
    pub url: &'a str,
    /// Name in the output.
    pub id: &'a ShardId,
    /// Fingerprint of the input alone.
    pub fingerprint: String,
}

/// Writes the failure record of a shard, and returns it. `may_have_failed` says whether an earlier record is looked for, whose
/// attempts count if the input is the same and it failed the same way.
pub(crate) async fn record(
    commit_log: &CommitLog,
    shard: FailedInput<'_>,
    failure: &ShardFailure,
    may_have_failed: bool,
) -> FailureRecord {
    let before = if may_have_failed { commit_log.failure(shard.id).await.ok().flatten() } else { None };
    // By class and not by message, which may hold a duration.
    let same = before.filter(|before| before.input == shard.fingerprint && before.class == failure.class);
    let record = FailureRecord {
        shard: shard.url.to_owned(),
        input: shard.fingerprint,
        class: failure.class,
        error: failure.error.clone(),
        attempts: same.map_or(1, |before| before.attempts.saturating_add(1)),
    };
    write(commit_log, shard.id, &record).await;
    record
}

/// Writes a failure record. Where that fails, the failure is logged and nothing else.
pub(crate) async fn write(commit_log: &CommitLog, id: &ShardId, record: &FailureRecord) {
    if let Err(error) = commit_log.record_failure(id, record).await {
        tracing::warn!(%error, "a failure could not be recorded");
    }
}

/// Deletes the failure record of a shard that is done.
pub(crate) async fn forget(commit_log: &CommitLog, id: &ShardId) {
    if let Err(error) = commit_log.delete_failure(id).await {
        tracing::warn!(%error, "an old failure record could not be removed");
    }
}

impl RunReport {
    /// Counts a shard that ended.
    fn add(&mut self, url: &str, outcome: &Result<ShardOutcome, ShardFailure>) {
        match outcome {
            Ok(outcome) => self.add_done(url, outcome),
            Err(failure) => self.shards_failed.push(FailedShard {
                shard: url.to_owned(),
                class: failure.class,
                error: failure.error.clone(),
                attempts: 1,
                permanent: false,
            }),
        }
    }

    /// Counts a shard that is done, or left to another worker.
    pub(crate) fn add_done(&mut self, url: &str, outcome: &ShardOutcome) {
        match outcome {
            // No shard of a run is left to another worker.
            ShardOutcome::ClaimedByOther => {}
            ShardOutcome::CommittedByOther => self.shards_done_by_others += 1,
            ShardOutcome::ProcessedTwice => {
                self.shards_done_by_others += 1;
                self.shards_done_twice += 1;
            }
            ShardOutcome::Committed { commit, committed } => {
                self.shards_done += 1;
                self.shards_done_twice += usize::from(*committed == CommitResult::AlreadyExists);
                self.counts.add(&commit.counts);
                if let Some(damage) = &commit.damaged {
                    self.shards_damaged.push(format!("{url}: {} (byte {})", damage.detail, damage.offset));
                }
            }
        }
    }

    /// Takes over what the record of a failed shard knows of earlier attempts.
    fn note_attempts(&mut self, record: &FailureRecord) {
        if let Some(entry) = self.shards_failed.iter_mut().rev().find(|f| f.shard == record.shard) {
            entry.attempts = record.attempts;
            entry.permanent = record.is_permanent();
        }
    }
}
