//! All records and parts of an output: every record is read, and every part is compared with its record.
//!
//! It takes three listings and a small read per record. A record that cannot be used is named, and its shard is processed
//! again; it stops nothing else.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
};

use chrono::{DateTime, Utc};
use recaption_schemas::{PartInfo, ShardId, shard_of_part};
use recaption_store::{Location, StoreError, StoreKind};

use super::{
    log::CommitLog,
    record::{ExistingPart, ExistingRecord, RecordName, RecordSummary},
};
use crate::layout::TABLES;

/// Records and parts of an output, by the name of their shard. There may be millions: parts of valid records are not kept
/// beside these, and names of others only as digests.
#[derive(Debug, Default)]
pub struct OutputScan {
    records: HashMap<String, Vec<ExistingRecord>>,
    /// Parts that no valid record names.
    parts: HashMap<String, Vec<ExistingPart>>,
    /// Parts that a usable record names, with the name of its shard.
    named: NamedParts,
    /// Shards of `parts` of which a valid record names other parts.
    with_valid_parts: HashSet<String>,
}

/// Parts with the names of shards, both as digests of 64 bits.
#[derive(Debug, Default)]
struct NamedParts {
    shards: HashMap<u64, u64>,
    hasher: RandomState,
}

impl NamedParts {
    fn insert(&mut self, part: &str, shard: &str) {
        self.shards.insert(self.hasher.hash_one(part), self.hasher.hash_one(shard));
    }

    fn has(&self, part: &str) -> bool {
        self.shards.contains_key(&self.hasher.hash_one(part))
    }

    /// Returns whether the record of another shard names a part.
    fn has_of_other(&self, part: &str, shard: &str) -> bool {
        let of = self.shards.get(&self.hasher.hash_one(part));
        of.is_some_and(|of| *of != self.hasher.hash_one(shard))
    }
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
        let is_kept =
            |path: &str| state.done.iter().flat_map(ExistingRecord::part_paths).any(|kept| kept == path);
        let found = [&id, &old].into_iter().filter_map(|id| self.parts.get(id.as_str())).flatten().cloned();
        let of_records = state.stale_records.iter().flat_map(ExistingRecord::existing_parts);
        let parts = found
            .chain(of_records)
            .filter(|part| !self.named.has_of_other(&part.path, id.as_str()) && !is_kept(&part.path));
        state.orphaned_parts = parts.collect();
        state.orphaned_parts.sort_by(|a, b| a.path.cmp(&b.path));
        state.orphaned_parts.dedup_by(|a, b| a.path == b.path);
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
        self.parts.values().flatten().filter(|part| !self.named.has(&part.path))
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

    /// Returns the parts of a shard, but for those of records that were taken.
    #[must_use]
    pub fn parts_of(&self, shard: &str) -> Vec<ExistingPart> {
        let records = self.records.get(shard).into_iter().flatten();
        let found = self.parts.get(shard).into_iter().flatten().cloned();
        found.chain(records.flat_map(ExistingRecord::existing_parts)).collect()
    }

    /// Returns the parts of all shards except these.
    pub fn parts_except(&self, shards: &HashSet<String>) -> impl Iterator<Item = ExistingPart> {
        let found = self.parts.iter().filter(|(shard, _)| !shards.contains(*shard));
        let records = self.records.iter().filter(|(shard, _)| !shards.contains(*shard));
        let found = found.flat_map(|(_, parts)| parts).cloned();
        found.chain(records.flat_map(|(_, all)| all).flat_map(ExistingRecord::existing_parts))
    }

    /// Returns the shards that have parts, all put before `before`, and no record that names one of them.
    #[must_use]
    pub fn orphaned_shards(&self, before: DateTime<Utc>) -> Vec<String> {
        let is_orphan = |part: &ExistingPart| !self.named.has(&part.path) && part.modified < before;
        let orphaned = self
            .parts
            .iter()
            .filter(|(shard, parts)| !self.with_valid_parts.contains(*shard) && parts.iter().all(is_orphan));
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
        let mut is_valid = vec![false; parts.len()];
        for mut record in records {
            let shard = record.summary.as_ref().map_or_else(
                || record.file.clone(),
                |summary| ShardId::from_url(&summary.shard).as_str().to_owned(),
            );
            let found: Vec<(&PartInfo, Option<usize>)> = record
                .summary
                .iter()
                .flat_map(RecordSummary::parts)
                .map(|part| (part, parts.binary_search_by(|found| found.path.as_str().cmp(&part.path)).ok()))
                .collect();
            let problem = found.iter().find_map(|(part, at)| problem_of(part, at.map(|at| parts[at].bytes)));
            let at: Vec<usize> = found.iter().filter_map(|(_, at)| *at).collect();
            found.iter().for_each(|(part, _)| scan.named.insert(&part.path, &shard));
            record.problem = problem.or(record.problem.take());
            if record.is_valid() {
                record.parts_modified = at.iter().map(|at| parts[*at].modified).max().unwrap_or_default();
                at.iter().for_each(|at| is_valid[*at] = true);
            }
            scan.records.entry(shard).or_default().push(record);
        }
        let mut of_valid = HashSet::new();
        for (part, is_valid) in parts.into_iter().zip(is_valid) {
            let Some(shard) = part.path.rsplit('/').next().and_then(shard_of_part) else { continue };
            if is_valid {
                of_valid.insert(scan.named.hasher.hash_one(shard));
            } else {
                scan.parts.entry(shard.to_owned()).or_default().push(part);
            }
        }
        let has_valid = |shard: &&String| of_valid.contains(&scan.named.hasher.hash_one(shard.as_str()));
        scan.with_valid_parts = scan.parts.keys().filter(has_valid).cloned().collect();
        Ok(scan)
    }

    /// Lists all parts.
    async fn existing_parts(&self) -> Result<Vec<ExistingPart>, StoreError> {
        let mut all = Vec::new();
        for table in TABLES {
            let folder = self.out.child(table);
            let links = links_in(&folder).await;
            let depth = folder.path.parts().count() + 1;
            let parts = folder.list_as(|meta| {
                let file = meta.location.filename()?;
                // Files of the folder itself, not of one in it.
                let is_part = meta.location.parts().count() == depth && !links.contains(file);
                let path = format!("{table}/{file}");
                is_part.then_some(ExistingPart { path, bytes: meta.size, modified: meta.last_modified })
            });
            all.extend(parts.await?);
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

/// Returns why a part does not match its record; `bytes` is its size, if it exists.
fn problem_of(part: &PartInfo, bytes: Option<u64>) -> Option<String> {
    match bytes {
        None => Some(format!("its part {} is missing", part.path)),
        Some(bytes) if bytes != part.bytes => {
            Some(format!("its part {} has {bytes} bytes instead of {}", part.path, part.bytes))
        }
        Some(_) => None,
    }
}
