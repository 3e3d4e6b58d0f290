//! All records and parts of an output: every record is read, and every part is compared with its record.
//!
//! It takes three listings and a small read per record. A record that cannot be used is named, and its shard is processed
//! again; it stops nothing else.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use recaption_schemas::{PartInfo, ShardId, shard_of_part};
use recaption_store::{Location, StoreError, StoreKind};

use super::{
    log::CommitLog,
    record::{ExistingPart, ExistingRecord, RecordName, RecordSummary},
};
use crate::layout::TABLES;

/// Records and parts of an output, by the name of their shard.
#[derive(Debug, Default)]
pub struct OutputScan {
    records: HashMap<String, Vec<ExistingRecord>>,
    parts: HashMap<String, Vec<ExistingPart>>,
    /// Parts that a usable record names, with the name of its shard.
    named: HashMap<String, String>,
}

/// The records and parts of one shard.
#[derive(Debug, Default)]
pub struct ShardState {
    /// The valid record: the shard is done.
    pub done: Option<ExistingRecord>,
    /// The invalid record at the path of the new one: it is replaced.
    pub replaces: Option<ExistingRecord>,
    /// Other invalid records.
    pub stale_records: Vec<ExistingRecord>,
    /// Parts that no valid record names.
    pub orphaned_parts: Vec<ExistingPart>,
}

impl OutputScan {
    /// Removes and returns a shard's records and parts. `name` is the name that its record must have.
    pub fn take(&mut self, url: &str, name: &RecordName) -> ShardState {
        let (id, old) = (ShardId::from_url(url), ShardId::old_from_url(url));
        let mut state = ShardState::default();
        for id in [&id, &old] {
            for record in self.records.remove(id.as_str()).unwrap_or_default() {
                if record.name == *name && record.is_valid() && state.done.is_none() {
                    state.done = Some(record);
                } else if record.name == *name && record.file == id.as_str() && *id != old {
                    state.replaces = Some(record);
                } else {
                    state.stale_records.push(record);
                }
            }
        }
        let kept: HashSet<&str> = state.done.iter().flat_map(ExistingRecord::part_paths).collect();
        for part in [&id, &old].into_iter().filter_map(|id| self.parts.get(id.as_str())).flatten() {
            let of_other = self.named.get(&part.path).is_some_and(|shard| shard != id.as_str());
            if !of_other && !kept.contains(part.path.as_str()) {
                state.orphaned_parts.push(part.clone());
            }
        }
        state
    }

    /// Returns the valid record of a shard, if it is done.
    #[must_use]
    pub fn done(&self, url: &str, name: &RecordName) -> Option<&ExistingRecord> {
        self.records_of(url).iter().find(|record| record.name == *name && record.is_valid())
    }

    /// Returns the records of a shard.
    #[must_use]
    pub fn records_of(&self, url: &str) -> &[ExistingRecord] {
        self.records.get(ShardId::from_url(url).as_str()).map_or(&[], Vec::as_slice)
    }

    /// Returns the parts that no usable record names.
    pub fn parts_without_record(&self) -> impl Iterator<Item = &ExistingPart> {
        self.parts.values().flatten().filter(|part| !self.named.contains_key(&part.path))
    }

    /// Returns all records that were not taken, with the names of their shards.
    pub fn records(&self) -> impl Iterator<Item = (&str, &ExistingRecord)> {
        self.records.iter().flat_map(|(shard, all)| all.iter().map(move |one| (shard.as_str(), one)))
    }

    /// Removes and returns all records that were not taken, by shard.
    #[must_use]
    pub fn take_records(&mut self) -> HashMap<String, Vec<ExistingRecord>> {
        std::mem::take(&mut self.records)
    }

    /// Returns whether a shard has a record.
    #[must_use]
    pub fn has_record(&self, shard: &str) -> bool {
        self.records.contains_key(shard)
    }

    /// Returns the parts of a shard.
    #[must_use]
    pub fn parts_of(&self, shard: &str) -> &[ExistingPart] {
        self.parts.get(shard).map_or(&[], Vec::as_slice)
    }

    /// Returns the parts of all shards except these.
    pub fn parts_except(&self, shards: &HashSet<String>) -> impl Iterator<Item = &ExistingPart> {
        self.parts.iter().filter(|(shard, _)| !shards.contains(*shard)).flat_map(|(_, parts)| parts)
    }

    /// Returns the shards that have parts, all put before `before`, and no record that names one of them.
    #[must_use]
    pub fn orphaned_shards(&self, before: DateTime<Utc>) -> Vec<String> {
        let is_orphan = |part: &ExistingPart| !self.named.contains_key(&part.path) && part.modified < before;
        let orphaned = self.parts.iter().filter(|(_, parts)| parts.iter().all(is_orphan));
        orphaned.map(|(shard, _)| shard.clone()).collect()
    }
}

impl CommitLog {
    /// Reads all records and lists all parts.
    ///
    /// # Errors
    /// Returns an error when the output cannot be listed, or a record cannot be read for a transient reason.
    pub async fn scan(&self) -> Result<OutputScan, StoreError> {
        let (records, parts) = futures::try_join!(self.existing_records(), self.existing_parts())?;
        let mut scan = OutputScan::default();
        let sizes: HashMap<&str, u64> = parts.iter().map(|part| (part.path.as_str(), part.bytes)).collect();
        for mut record in records {
            let shard = record.summary.as_ref().map_or_else(
                || record.file.clone(),
                |summary| ShardId::from_url(&summary.shard).as_str().to_owned(),
            );
            let parts = record.summary.iter().flat_map(RecordSummary::parts);
            record.problem = parts.into_iter().find_map(|part| problem_of(part, &sizes)).or(record.problem);
            for path in record.part_paths() {
                scan.named.insert(path.to_owned(), shard.clone());
            }
            scan.records.entry(shard).or_default().push(record);
        }
        for part in parts {
            if let Some(shard) = part.path.rsplit('/').next().and_then(shard_of_part) {
                scan.parts.entry(shard.to_owned()).or_default().push(part);
            }
        }
        Ok(scan)
    }

    /// Lists all parts.
    async fn existing_parts(&self) -> Result<Vec<ExistingPart>, StoreError> {
        let mut all = Vec::new();
        for table in TABLES {
            let folder = self.out.child(table);
            let links = links_in(&folder).await;
            for meta in folder.list().await? {
                // Files of the folder itself, not of one in it.
                let Some(file) = meta.location.filename() else { continue };
                if meta.location.parts().count() != folder.path.parts().count() + 1 || links.contains(file) {
                    continue;
                }
                let path = format!("{table}/{file}");
                all.push(ExistingPart { path, bytes: meta.size, modified: meta.last_modified });
            }
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(all)
    }
}

/// Returns the names of links in a folder of this machine. No worker makes links, so they are not parts.
async fn links_in(folder: &Location) -> HashSet<String> {
    if folder.kind != StoreKind::Local {
        return HashSet::new();
    }
    let folder = folder.local_path();
    let links = tokio::task::spawn_blocking(move || {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        links.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    });
    links.await.unwrap_or_default()
}

/// Returns why a part does not match its record.
fn problem_of(part: &PartInfo, sizes: &HashMap<&str, u64>) -> Option<String> {
    match sizes.get(part.path.as_str()) {
        None => Some(format!("its part {} is missing", part.path)),
        Some(bytes) if *bytes != part.bytes => {
            Some(format!("its part {} has {bytes} bytes instead of {}", part.path, part.bytes))
        }
        Some(_) => None,
    }
}
