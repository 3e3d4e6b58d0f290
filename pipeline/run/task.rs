//! The shards of a plan: those to process, those that are done, and the names of all.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher,
};

use recaption_input::shards::ShardRef;
use recaption_output::commits::{ExistingPart, ExistingRecord, RecordName, ShardState};
use recaption_schemas::{RejectReason, ShardCommit, ShardId};

/// One shard to process.
#[derive(Debug)]
pub struct Task {
    /// The input.
    pub shard: ShardRef,
    /// Fingerprints of input and configuration.
    pub name: RecordName,
    /// The record that its own will replace.
    pub replaces: Option<ExistingRecord>,
    /// Records of the same shard that are obsolete; deleted once its record is written.
    pub stale_records: Box<[ExistingRecord]>,
    /// Parts that are obsolete once its record is written.
    pub orphaned_parts: Box<[ExistingPart]>,
    /// In a retry, the record whose rows stay, except for samples that were rejected for a transient reason.
    pub keep: Option<Box<Keep>>,
}

impl Task {
    /// Of a shard that is not done.
    pub(crate) fn new(shard: ShardRef, name: RecordName, found: ShardState) -> Self {
        let ShardState { replaces, stale_records, orphaned_parts, .. } = found;
        let (stale_records, orphaned_parts) = (stale_records.into(), orphaned_parts.into());
        Self { shard, name, replaces, stale_records, orphaned_parts, keep: None }
    }

    /// Creates the task of a shard that is read without being committed.
    pub(super) fn uncommitted(shard: ShardRef) -> Self {
        let name = RecordName { input: shard.fingerprint(), configuration: String::new() };
        Self::new(shard, name, ShardState::default())
    }
}

/// Rows that stay.
#[derive(Debug)]
pub struct Keep {
    /// The record of them.
    pub commit: Box<ShardCommit>,
    /// Reasons of rejects that are retried.
    pub retried: Vec<RejectReason>,
}

/// A shard that is done, with the files that earlier attempts left.
pub(super) struct Done {
    pub(super) shard: ShardRef,
    pub(super) name: RecordName,
    pub(super) standing: ExistingRecord,
    pub(super) found: ShardState,
}

/// Shards that are done and stay so.
#[derive(Default)]
pub(super) struct DoneShards {
    pub(super) done: Vec<DoneShard>,
    /// Records and parts that unfinished attempts left of them.
    pub(super) leftovers: Vec<ShardState>,
}

impl DoneShards {
    /// Keeps what the run needs of a shard.
    pub(super) fn add(&mut self, one: Done) {
        self.done.push(DoneShard::new(&one));
        if !one.found.stale_records.is_empty() || !one.found.orphaned_parts.is_empty() {
            self.leftovers.push(one.found);
        }
    }
}

/// A shard that is done, with what its record says.
#[derive(Clone, Debug)]
pub struct DoneShard {
    /// The input.
    pub shard: ShardRef,
    /// Samples that were read.
    pub samples: u64,
    /// Bytes of both parts.
    pub part_bytes: u64,
}

impl DoneShard {
    fn new(done: &Done) -> Self {
        let summary = done.standing.summary.as_ref();
        let parts = summary.iter().flat_map(|summary| summary.parts());
        Self {
            shard: done.shard.clone(),
            samples: summary.map_or(0, |summary| summary.counts.read),
            part_bytes: parts.map(|part| part.bytes).sum(),
        }
    }
}

/// Names of all inputs, today's and those of versions before 0.2, as digests of 64 bits.
#[derive(Debug, Default)]
pub struct InputNames {
    digests: HashSet<u64>,
    hasher: RandomState,
}

impl InputNames {
    pub(super) fn of(shards: &[ShardRef]) -> Self {
        let hasher = RandomState::new();
        let digests_of = |shard: &ShardRef| {
            [shard.id.clone(), ShardId::old_from_url(&shard.url)].map(|id| hasher.hash_one(id.as_str()))
        };
        let digests = shards.iter().flat_map(digests_of).collect();
        Self { digests, hasher }
    }

    /// Returns whether an input has this name.
    #[must_use]
    pub fn contains(&self, shard: &str) -> bool {
        self.digests.contains(&self.hasher.hash_one(shard))
    }
}
