//! Failure records of the output, as a worker keeps them: those of other workers and runs count too.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use recaption_output::commits::CommitLog;
use recaption_schemas::{FailureClass, FailureRecord, ShardId, redact_text};

use super::open_requests::GiveUp;
use crate::run::{
    ShardFailure,
    failures::{FailedInput, forget, record, write},
};

/// Writes and deletes failure records.
#[derive(Debug)]
pub(super) struct FailureRecords {
    commit_log: CommitLog,
    /// Shards with a record, as far as this worker knows.
    known: Mutex<HashSet<String>>,
}

impl FailureRecords {
    /// Takes the shards that have failure records.
    pub(super) fn new(commit_log: CommitLog, known: Vec<String>) -> Self {
        Self { commit_log, known: Mutex::new(known.into_iter().collect()) }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a shard failed.
    pub(super) async fn record(
        &self,
        url: &str,
        fingerprint: String,
        failure: &ShardFailure,
    ) -> FailureRecord {
        let id = ShardId::from_url(url);
        self.known().insert(id.as_str().to_owned());
        // Another worker may have recorded an earlier attempt.
        record(&self.commit_log, FailedInput { url, id: &id, fingerprint }, failure, true).await
    }

    /// Records that a shard was given up.
    pub(super) async fn give_up(&self, url: &str, input: String, give_up: &GiveUp) -> FailureRecord {
        let id = ShardId::from_url(url);
        self.known().insert(id.as_str().to_owned());
        let record = FailureRecord {
            shard: url.to_owned(),
            input,
            class: FailureClass::Crash,
            error: redact_text(&format!("shard {url}: given up: {}", give_up.reason)),
            attempts: give_up.attempts,
        };
        write(&self.commit_log, &id, &record).await;
        record
    }

    /// Deletes the record of a shard that is done now. One that was done before is looked at only if it is known to have one.
    pub(super) async fn forget(&self, url: &str, is_new: bool) {
        let id = ShardId::from_url(url);
        let is_known = self.known().remove(id.as_str());
        // Another worker may have recorded a failure since this one started.
        if is_known || is_new {
            forget(&self.commit_log, &id).await;
        }
    }
}
