//! Commit records -> the parts that are read.

use std::collections::BTreeMap;

use anyhow::bail;
use recaption_output::commits::{CommitLog, OutputConfiguration, RecordSummary};
use recaption_schemas::{Counts, PartInfo, ShardCommit};
use recaption_store::Location;

/// The two parts of a shard that is done.
#[derive(Clone, Debug)]
pub(super) struct ShardParts {
    /// The shard's URL.
    pub(super) url: String,
    /// Its captions.
    pub(super) captions: PartInfo,
    /// Its rejects.
    pub(super) rejects: PartInfo,
}

/// What the records of an output say.
#[derive(Debug, Default)]
pub(super) struct FoundParts {
    /// The parts, by the name of their shard.
    pub(super) parts: Vec<ShardParts>,
    /// Counts of all shards that are done.
    pub(super) counts: Counts,
    /// Shards that could be read only in part.
    pub(super) damaged: usize,
    /// Records that cannot be used, or whose parts are missing.
    pub(super) invalid: usize,
    /// Shards with a failure record.
    pub(super) failed: usize,
    /// Bytes of all parts.
    pub(super) bytes: u64,
    /// One of the records, whole.
    pub(super) commit: Option<ShardCommit>,
}

/// Finds the parts of an output by its records; others do not exist. Unusable records are counted and logged.
///
/// # Errors
/// Returns an error when there is no usable record, or the output cannot be listed.
pub(super) async fn parts_of(output: &Location) -> anyhow::Result<FoundParts> {
    let commit_log = CommitLog::new(output.clone());
    let scan = commit_log.scan().await?;
    let configuration: Option<OutputConfiguration> = commit_log.configuration().await?;
    let mut found = FoundParts { failed: commit_log.failures().await?.len(), ..FoundParts::default() };
    let mut shards: BTreeMap<&str, (bool, &recaption_output::commits::ExistingRecord, &RecordSummary)> =
        BTreeMap::new();
    for (shard, record) in scan.records() {
        let Some(summary) = record.summary.as_ref().filter(|_| record.is_valid()) else {
            found.invalid += 1;
            tracing::warn!(shard, problem = record.problem, "unusable commit record; its rows are left out");
            continue;
        };
        // A run that replaces another's rows leaves two records for a while: the claimed configuration's is the newer.
        let is_claimed =
            configuration.as_ref().is_none_or(|claimed| claimed.fingerprint == record.name.configuration);
        let better = shards.get(shard).is_none_or(|(claimed, ..)| is_claimed && !claimed);
        if better {
            shards.insert(shard, (is_claimed, record, summary));
        }
    }
    for (_, record, summary) in shards.values() {
        if found.commit.is_none() {
            found.commit = commit_log.find(&record.file, &record.name).await?;
        }
        found.counts.add(&summary.counts);
        found.damaged += usize::from(summary.damaged.is_some());
        found.bytes += summary.captions.bytes + summary.rejects.bytes;
        found.parts.push(ShardParts {
            url: summary.shard.clone(),
            captions: summary.captions.clone(),
            rejects: summary.rejects.clone(),
        });
    }
    if found.parts.is_empty() {
        bail!("{}: no commit records: not the output of `recaption run` or `recaption filter`", output.url());
    }
    Ok(found)
}
