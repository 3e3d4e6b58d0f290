//! The other workers on the same output: which shards they claim, and which they have done.

use std::{sync::Arc, time::Duration};

use recaption_messages::{PreviousRows, ReadError};
use recaption_output::{
    commits::{ClaimAttempt, CommitLog, Records, Workers},
    read_previous_rows,
};
use recaption_schemas::FailureClass;
use recaption_store::Location;
use tokio::{sync::Mutex, time::Instant};

use super::Tasks;

/// Least pause between two looks at shards that other workers claim.
pub(super) const CLAIM_POLL: Duration = Duration::from_millis(500);
/// A listing of the commit records is reused for this many times the time that it took.
const LISTING_SHARE: u32 = 20;

/// The shards of a run as other workers see them.
#[derive(Debug)]
pub struct WorkerClaims {
    commit_log: CommitLog,
    output: Location,
    tasks: Arc<Tasks>,
    /// `None` where claims are off, or the output cannot hold them.
    workers: Option<Arc<Workers>>,
    listed: Mutex<ListedRecords>,
}

/// Commit records at the last listing.
#[derive(Debug, Default)]
struct ListedRecords {
    records: Records,
    fresh_until: Option<Instant>,
}

impl WorkerClaims {
    /// Creates the view of the shards of `tasks`.
    #[must_use]
    pub fn new(
        commit_log: CommitLog,
        output: Location,
        tasks: Arc<Tasks>,
        workers: Option<Arc<Workers>>,
    ) -> Self {
        Self { commit_log, output, tasks, workers, listed: Mutex::default() }
    }

    /// Claims a shard for this worker.
    pub async fn claim(&self, shard: usize) -> ClaimAttempt {
        match (&self.workers, self.tasks.get(shard)) {
            (Some(workers), Some(task)) => workers.claim(task.shard.id.as_str()).await,
            _ => ClaimAttempt::Inherited,
        }
    }

    /// Claims a shard that another worker claimed, for a reader that has nothing else to do.
    pub async fn claim_late(&self, shard: usize) -> ClaimAttempt {
        match (&self.workers, self.tasks.get(shard)) {
            (Some(workers), Some(task)) => workers.claim_or_take_over(task.shard.id.as_str()).await,
            _ => ClaimAttempt::Inherited,
        }
    }

    /// Releases the claim on a shard that failed.
    pub async fn release(&self, shard: usize) {
        if let (Some(workers), Some(task)) = (&self.workers, self.tasks.get(shard)) {
            workers.release(task.shard.id.as_str()).await;
        }
    }

    /// Returns whether another worker committed a shard after this run was planned. A shard whose record cannot be read counts
    /// as not committed.
    pub async fn is_committed(&self, shard: usize) -> bool {
        let Some(task) = self.tasks.get(shard) else { return false };
        match self.commit_log.digest(task.shard.id.as_str(), &task.name).await {
            // A shard that is processed in spite of its record is done once there is another record.
            Ok(Some(digest)) => task.replaces.as_ref().is_none_or(|record| record.digest != digest),
            _ => false,
        }
    }

    /// As [`WorkerClaims::is_committed`], from a listing of all records that is refreshed now and then.
    pub async fn is_listed(&self, shard: usize) -> bool {
        let Some(task) = self.tasks.get(shard) else { return false };
        if task.replaces.is_some() {
            return self.is_committed(shard).await;
        }
        let mut listed = self.listed.lock().await;
        if listed.fresh_until.is_none_or(|until| until <= Instant::now()) {
            let began = Instant::now();
            if let Ok(records) = self.commit_log.list().await {
                listed.records = records;
            }
            listed.fresh_until = Some(Instant::now() + CLAIM_POLL.max(began.elapsed() * LISTING_SHARE));
        }
        listed.records.get(task.shard.id.as_str()).is_some_and(|names| names.contains(&task.name))
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
