//! How shards end: what is answered, recorded and released.

use std::sync::Arc;

use anyhow::anyhow;
use recaption_output::{commits::CommitResult, layout::COMMITS};
use recaption_schemas::ShardCommit;

use super::{
    open_requests::GiveUp,
    protocol::{CommittedShard, ErrorClass, Outcome, ShardError},
    session::{Recorded, Session},
};
use crate::run::{Mismatch, ShardFailure, ShardOutcome, ShardResult, Task};

impl Session<'_> {
    /// Goes on with a shard that the pipeline has ended.
    pub(super) fn shard_ended(&mut self, result: ShardResult) {
        let ShardResult { shard: number, outcome } = result;
        let (Some(url), Some(task)) = (self.open.end(number), self.state.tasks.get(number)) else { return };
        match outcome {
            Ok(outcome) => {
                self.state.tasks.remove(number);
                self.totals.ended(&url, &outcome, &self.state.progress);
                let outcome = match outcome {
                    ShardOutcome::Committed { commit, committed } => {
                        self.forget_failure(&url, true);
                        Outcome::Committed(Box::new(committed_shard(&task, *commit, committed)))
                    }
                    ShardOutcome::CommittedByOther => Outcome::DoneByOther { twice: false },
                    ShardOutcome::ProcessedTwice => Outcome::DoneByOther { twice: true },
                    ShardOutcome::ClaimedByOther => {
                        self.lookup.put_back(&task);
                        Outcome::Claimed
                    }
                };
                self.finish(&url, outcome);
            }
            Err(failure) => self.shard_failed(url, (number, &task), failure),
        }
    }

    fn shard_failed(&mut self, url: String, (number, task): (usize, &Task), failure: ShardFailure) {
        if failure.class.is_transient() {
            tracing::error!(error = failure.error, "shard failed");
        }
        self.lookup.put_back(task);
        let ends_run = if let Some(differences) = failure.mismatch.clone() {
            self.state.fail(Mismatch { differences }.into());
            true
        } else if failure.ends_run {
            self.state.fail(anyhow!("the output cannot be written: {}", failure.error));
            true
        } else {
            false
        };
        if ends_run {
            // It is not the shard's failure. Nothing is recorded in an output of another configuration.
            return self.finish(&url, failed(&failure, 1));
        }
        let (state, fingerprint) = (Arc::clone(&self.state), task.shard.fingerprint());
        self.record(url, fingerprint, failure, async move {
            if let Some(claims) = state.source.claims() {
                claims.release(number).await;
            }
            state.tasks.remove(number);
        });
    }

    /// Records a failure, and answers then.
    pub(super) fn record_failure(&mut self, url: String, fingerprint: String, failure: ShardFailure) {
        self.record(url, fingerprint, failure, std::future::ready(()));
    }

    /// As [`Session::record_failure`], after something else.
    fn record(
        &mut self,
        url: String,
        fingerprint: String,
        failure: ShardFailure,
        first: impl Future<Output = ()> + Send + 'static,
    ) {
        let failures = Arc::clone(&self.failures);
        self.records.spawn(async move {
            first.await;
            let record = failures.record(&url, fingerprint, &failure).await;
            Some(Recorded { url, outcome: failed(&failure, record.attempts), record })
        });
    }

    /// Records that a shard was given up, and answers then.
    pub(super) fn give_up(&mut self, url: String, fingerprint: String, give_up: GiveUp) {
        self.totals.planned(&url, 0, &self.state.progress);
        let failures = Arc::clone(&self.failures);
        self.records.spawn(async move {
            let record = failures.give_up(&url, fingerprint, &give_up).await;
            Some(Recorded { url, outcome: Outcome::GivenUp, record })
        });
    }

    /// Deletes the failure record of a shard that is done.
    pub(super) fn forget_failure(&mut self, url: &str, is_new: bool) {
        let (failures, url) = (Arc::clone(&self.failures), url.to_owned());
        self.records.spawn(async move {
            failures.forget(&url, is_new).await;
            None
        });
    }
}

fn failed(failure: &ShardFailure, attempts: u32) -> Outcome {
    let class = match &failure.mismatch {
        Some(_) => ErrorClass::Configuration,
        None => ErrorClass::of(failure.class),
    };
    let (kind, message) = (failure.class, failure.error.clone());
    Outcome::Failed { error: ShardError { class, kind, message, attempts } }
}

fn committed_shard(task: &Task, commit: ShardCommit, committed: CommitResult) -> CommittedShard {
    CommittedShard {
        record: format!("{COMMITS}/{}.{}.json", task.shard.id.as_str(), commit.fingerprint),
        twice: committed == CommitResult::AlreadyExists,
        counts: commit.counts,
        captions: commit.captions,
        rejects: commit.rejects,
        webdataset: commit.webdataset,
        damaged: commit.damaged,
    }
}
