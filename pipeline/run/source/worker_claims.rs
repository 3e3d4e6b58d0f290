//! The other workers on the same output: which shards they claim, and which they have done.

use std::{collections::HashSet, sync::Arc};

use recaption_messages::{PreviousRows, ReadError};
use recaption_output::{
    commits::{Between, ClaimAttempt, CommitLog, RecordName, Records, Workers},
    read_previous_rows,
};
use recaption_schemas::{FailureClass, hex};
use recaption_store::Location;

use super::Tasks;
use crate::run::Task;

/// The shards of a pass as other workers see them.
#[derive(Debug)]
pub struct WorkerClaims {
    commit_log: CommitLog,
    output: Location,
    tasks: Arc<Tasks>,
    /// `None` where claims are off, or the output cannot hold them.
    workers: Option<Arc<Workers>>,
}

impl WorkerClaims {
    /// Creates the view of the shards of `tasks`. Without `workers` nothing is claimed, and shards are committed by whoever comes
    /// first.
    #[must_use]
    pub fn new(
        commit_log: CommitLog,
        output: Location,
        tasks: Arc<Tasks>,
        workers: Option<Arc<Workers>>,
    ) -> Self {
        Self { commit_log, output, tasks, workers }
    }

    /// Claims a shard for this worker.
    pub(super) async fn claim(&self, shard: usize) -> ClaimAttempt {
        match (&self.workers, self.tasks.get(shard)) {
            (Some(workers), Some(task)) => workers.claim(task.shard.id.as_str(), &version_of(&task)).await,
            _ => ClaimAttempt::Inherited,
        }
    }

    /// Claims a shard that another worker claimed, for a reader that has nothing else to do.
    pub(super) async fn claim_late(&self, shard: usize) -> ClaimAttempt {
        match (&self.workers, self.tasks.get(shard)) {
            (Some(workers), Some(task)) => {
                workers.claim_or_take_over(task.shard.id.as_str(), &version_of(&task)).await
            }
            _ => ClaimAttempt::Inherited,
        }
    }

    /// Releases the claim on a shard that failed, so that another worker may try it.
    pub async fn release(&self, shard: usize) {
        if let (Some(workers), Some(task)) = (&self.workers, self.tasks.get(shard)) {
            workers.release(task.shard.id.as_str()).await;
        }
    }

    /// Returns the number of other workers that live.
    pub(super) fn others(&self) -> usize {
        self.workers.as_ref().map_or(0, |workers| workers.others())
    }

    /// Returns whether another worker committed a shard after this pass was planned. A shard whose record cannot be read counts
    /// as not committed.
    pub async fn is_committed(&self, shard: usize) -> bool {
        let Some(task) = self.tasks.get(shard) else { return false };
        match self.commit_log.digest(task.shard.id.as_str(), &task.name).await {
            // A shard that is processed in spite of its record is done once there is another record.
            Ok(Some(digest)) => task.replaces.as_ref().is_none_or(|record| record.digest != digest),
            _ => false,
        }
    }

    /// Returns the name of a shard's files; empty where the shard was removed.
    pub(super) fn id_of(&self, shard: usize) -> String {
        self.tasks.get(shard).map(|task| task.shard.id.as_str().to_owned()).unwrap_or_default()
    }

    /// Returns whether a shard's record among these names says that another worker committed it.
    pub(super) fn is_recorded(&self, shard: usize, names: Option<&Vec<RecordName>>) -> bool {
        let Some(task) = self.tasks.get(shard) else { return false };
        task.replaces.is_none() && names.is_some_and(|names| names.contains(&task.name))
    }

    /// Returns whether a shard has a record already that its own may replace: then a listing does not tell whether it is done.
    pub(super) fn can_be_rewritten(&self, shard: usize) -> bool {
        self.tasks.get(shard).is_some_and(|task| task.replaces.is_some())
    }

    /// Returns whether records and claims of some shards can be listed without those of all others.
    pub(super) fn can_list_between(&self) -> bool {
        self.commit_log.can_list_between()
    }

    /// Lists the records of shards, given in the order of their names. Also returns up to which shard they are known, if not all
    /// are. Where the output cannot be listed there are none.
    pub(super) async fn records_among(&self, shards: &[usize], max: usize) -> (Records, Option<String>) {
        let Some((first, last)) = self.ends(shards) else { return Default::default() };
        match self.commit_log.list_between((&first, &last), max).await {
            Ok(Between { found, known_until }) => (found, known_until),
            Err(error) => {
                tracing::debug!(%error, "records of other workers cannot be listed");
                Default::default()
            }
        }
    }

    /// As [`WorkerClaims::records_among`], the shards that are claimed.
    pub(super) async fn claimed_among(
        &self,
        shards: &[usize],
        max: usize,
    ) -> (HashSet<String>, Option<String>) {
        let (Some(workers), Some((first, last))) = (&self.workers, self.ends(shards)) else {
            return Default::default();
        };
        match workers.claimed_between((&first, &last), max).await {
            Ok(Between { found, known_until }) => (found, known_until),
            Err(error) => {
                tracing::debug!(%error, "claims of other workers cannot be listed");
                Default::default()
            }
        }
    }

    fn ends(&self, shards: &[usize]) -> Option<(String, String)> {
        Some((self.id_of(*shards.first()?), self.id_of(*shards.last()?)))
    }

    /// Reads the rows of an earlier run that a retry of this shard keeps; `None` for a shard that is processed whole.
    ///
    /// # Errors
    /// When the earlier rows cannot be read.
    pub async fn previous_rows(&self, shard: usize) -> Result<Option<PreviousRows>, ReadError> {
        let Some(task) = self.tasks.get(shard) else { return Ok(None) };
        let Some(keep) = &task.keep else { return Ok(None) };
        let rows = read_previous_rows(&self.output, &keep.commit, &keep.retried).await;
        rows.map(Some).map_err(|e| ReadError {
            url: task.shard.url.clone(),
            what: format!("its earlier rows: {e}"),
            class: FailureClass::Transport,
            is_retryable: true,
        })
    }
}

/// What of a shard a task processes: input and configuration, and the record that it replaces, if there is one.
fn version_of(task: &Task) -> String {
    match &task.replaces {
        Some(record) => format!("{}-{}", task.name.fingerprint(), hex(&record.digest[..8])),
        None => task.name.fingerprint(),
    }
}
