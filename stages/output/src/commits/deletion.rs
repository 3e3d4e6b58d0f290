//! Deletes shards: first their records, then their parts. A deletion in flight is recorded before both, so that the next run
//! completes one that was interrupted.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use recaption_store::{Location, StoreError, write_json};

use super::{
    log::CommitLog,
    record::{ExistingPart, ExistingRecord, RecordSummary},
    scan::OutputScan,
};
use crate::layout::{PENDING_DELETIONS, TABLES};

/// Age from which parts without a record belong to no worker, also where clocks differ.
const ORPHAN_AGE: TimeDelta = TimeDelta::hours(24);

impl CommitLog {
    fn deletion_location(&self, shard: &str) -> Location {
        self.out.child(PENDING_DELETIONS).child(&format!("{shard}.json"))
    }

    /// Deletes shards by the records and parts that they had when this was decided. A shard that another worker committed
    /// meanwhile stays.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn delete_shards(
        &self,
        shards: &BTreeMap<String, (Vec<ExistingRecord>, Vec<ExistingPart>)>,
    ) -> Result<(), StoreError> {
        if shards.is_empty() {
            return Ok(());
        }
        let now = self.list().await?;
        let is_new = |records: &[ExistingRecord]| {
            records.iter().map(|record| &record.file).any(|file| {
                let names = now.get(file).map_or(&[][..], Vec::as_slice);
                names.iter().any(|name| !records.iter().any(|one| one.file == *file && one.name == *name))
            })
        };
        for (shard, (records, parts)) in shards.iter().filter(|(_, (records, _))| !is_new(records)) {
            write_json(&self.deletion_location(shard), &serde_json::json!({ "shard": shard })).await?;
            for record in records {
                self.out.child(&record.path()).delete().await?;
            }
            let named =
                records.iter().filter_map(|record| record.summary.as_ref()).flat_map(RecordSummary::parts);
            for part in named.filter(|part| is_part(&part.path)) {
                self.out.child(&part.path).delete().await?;
            }
            self.finish_deletion(shard, parts).await?;
        }
        self.delete_records_without_parts(shards).await
    }

    /// Deletes the records of shards whose parts are missing: a worker may have committed one just now, with parts that
    /// were deleted too. Such a shard is processed again.
    async fn delete_records_without_parts(
        &self,
        shards: &BTreeMap<String, (Vec<ExistingRecord>, Vec<ExistingPart>)>,
    ) -> Result<(), StoreError> {
        let now = self.list().await?;
        for shard in shards.keys() {
            for name in now.get(shard).into_iter().flatten() {
                let Ok(Some(commit)) = self.find(shard, name).await else { continue };
                if !self.verify_part(&commit.captions).await? || !self.verify_part(&commit.rejects).await? {
                    self.delete(shard, name).await?;
                }
            }
        }
        Ok(())
    }

    /// Returns the shards that have parts but no record, all older than a day: a worker died between the two.
    #[must_use]
    pub fn orphaned_shards(scan: &OutputScan) -> Vec<String> {
        scan.orphaned_shards(Utc::now() - ORPHAN_AGE)
    }

    /// Lists the shards whose deletion was interrupted.
    ///
    /// # Errors
    /// Returns an error when the output cannot be listed.
    pub async fn pending_deletions(&self) -> Result<Vec<String>, StoreError> {
        self.documents_in(PENDING_DELETIONS).await
    }

    /// Deletes the parts of a shard that has no record any more, and ends its deletion.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn finish_deletion(&self, shard: &str, parts: &[ExistingPart]) -> Result<(), StoreError> {
        for part in parts {
            self.out.child(&part.path).delete().await?;
        }
        self.cancel_deletion(shard).await
    }

    /// Cancels a deletion: the shard exists again, or is about to.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn cancel_deletion(&self, shard: &str) -> Result<(), StoreError> {
        self.deletion_location(shard).delete().await
    }
}

/// Whether a path in a record is a part's. Records are untrusted: no other file is deleted.
fn is_part(path: &str) -> bool {
    path.split_once('/').is_some_and(|(table, file)| {
        TABLES.contains(&table) && recaption_schemas::shard_of_part(file).is_some()
    })
}
