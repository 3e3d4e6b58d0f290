//! What a worker has done so far: its run record, and what metrics show.

use std::{collections::HashSet, sync::atomic::Ordering::Relaxed};

use recaption_schemas::FailureRecord;

use crate::{
    metrics::{Monitor, PlannedShards},
    run::{FailedShard, Progress, RunReport, ShardOutcome},
};

/// Totals of a worker.
pub(super) struct Totals<'a> {
    pub(super) report: &'a mut RunReport,
    monitor: &'a Monitor,
    planned: PlannedShards,
    /// Shards whose last attempt failed.
    failed: HashSet<String>,
}

impl<'a> Totals<'a> {
    pub(super) fn new(report: &'a mut RunReport, monitor: &'a Monitor) -> Self {
        Self { report, monitor, planned: PlannedShards::default(), failed: HashSet::new() }
    }

    /// Counts a shard that was done before.
    pub(super) fn skipped(&mut self) {
        self.report.shards_skipped += 1;
        self.planned.skipped += 1;
        self.monitor.planned(self.planned);
    }

    /// Counts a shard that is to be processed. One that failed before is not counted again.
    pub(super) fn planned(&mut self, url: &str, bytes: u64, progress: &Progress) {
        if self.failed.remove(url) {
            self.report.shards_failed.retain(|failed| failed.shard != url);
            progress.failed.fetch_sub(1, Relaxed);
            return;
        }
        progress.add_shard(bytes);
        self.planned.todo += 1;
        self.planned.bytes += bytes;
        self.monitor.planned(self.planned);
    }

    /// Counts a shard that is done, or left to another worker.
    pub(super) fn ended(&mut self, url: &str, outcome: &ShardOutcome, progress: &Progress) {
        self.report.add_done(url, outcome);
        if matches!(outcome, ShardOutcome::ClaimedByOther) {
            self.planned.todo = self.planned.todo.saturating_sub(1);
            self.monitor.planned(self.planned);
        } else {
            progress.committed.fetch_add(1, Relaxed);
        }
    }

    /// Counts a shard that failed or was given up.
    pub(super) fn failed(&mut self, record: &FailureRecord, progress: &Progress) {
        if !self.failed.insert(record.shard.clone()) {
            self.report.shards_failed.retain(|failed| failed.shard != record.shard);
        } else {
            progress.failed.fetch_add(1, Relaxed);
        }
        self.report.shards_failed.push(FailedShard {
            shard: record.shard.clone(),
            class: record.class,
            error: record.error.clone(),
            attempts: record.attempts,
            permanent: record.is_permanent(),
        });
    }
}
