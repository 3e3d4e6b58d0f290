//! Inputs compared with the records of an output: which shards are done, and why others are not.

use std::collections::{BTreeMap, HashMap, HashSet};

use recaption_input::{
    read::{Split, StalePart},
    shards::ShardRef,
};
use recaption_output::commits::{ExistingRecord, OutputScan};
use recaption_schemas::FailureRecord;
use serde::Serialize;

/// Why a shard is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OpenState {
    /// It has no record.
    Pending,
    /// It changed since it was done; its rows are those of the earlier input.
    Changed,
    /// Its record or a part of it cannot be used.
    Invalid,
    /// It failed, and another attempt may succeed.
    Failed,
    /// It failed in a way that another attempt is expected to repeat.
    FailedPermanently,
}

/// An input that is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct OpenShard {
    /// URL, redacted.
    pub(crate) shard: String,
    /// Why it is not done.
    pub(crate) state: OpenState,
    /// The failure, or what is wrong with the record, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// All inputs compared with all records.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Inputs whose record is valid and of their version.
    pub(crate) done: usize,
    /// Bytes of these inputs.
    pub(crate) done_bytes: u64,
    /// Inputs that are not done, in the order of their URLs.
    pub(crate) open: Vec<OpenShard>,
    /// Failures of inputs that are not done.
    pub(crate) failed: Vec<FailureRecord>,
    /// Shards of the output that are no longer among the inputs.
    pub(crate) orphaned: usize,
}

impl Comparison {
    /// Compares by name. `claimed` is the fingerprint of the output's configuration; records of another do not count.
    #[must_use]
    pub(crate) fn new(
        scan: &OutputScan,
        split: &Split,
        claimed: Option<&str>,
        failures: &[FailureRecord],
    ) -> Self {
        let failures: HashMap<&str, &FailureRecord> =
            failures.iter().map(|record| (record.shard.as_str(), record)).collect();
        let mut records: HashMap<&str, Vec<&ExistingRecord>> = HashMap::new();
        let mut problems: HashMap<&str, &str> = HashMap::new();
        for (shard, record) in scan.records() {
            let is_claimed = claimed.is_none_or(|claimed| record.name.configuration == claimed);
            if let Some(problem) = &record.problem {
                problems.insert(shard, problem);
            } else if record.is_valid() && is_claimed {
                records.entry(shard).or_default().push(record);
            }
        }
        let mut found = Self::default();
        for shard in &split.shards {
            let input = shard.fingerprint();
            let of_shard = records.get(shard.id.as_str());
            if of_shard.is_some_and(|records| records.iter().any(|record| record.name.input == input)) {
                found.done += 1;
                found.done_bytes += shard.bytes();
                continue;
            }
            let failure = failures.get(shard.url.as_str()).copied();
            found.failed.extend(failure.cloned());
            let problem = problems.get(shard.id.as_str()).copied();
            found.open.push(open_shard(shard, &input, (failure, problem), of_shard.is_some()));
        }
        found.open.sort_by(|a, b| a.shard.cmp(&b.shard));
        found.failed.sort_by(|a, b| a.shard.cmp(&b.shard));
        let inputs: HashSet<&str> = split.shards.iter().map(|shard| shard.id.as_str()).collect();
        let is_orphan = |shard: &&&str| {
            !inputs.contains(**shard)
                && !matches!(split.stale_part(shard), Some(StalePart::ListUnavailable(_)))
        };
        found.orphaned = records.keys().filter(is_orphan).count();
        found
    }

    /// Counts the inputs that are not done, by the reason.
    #[must_use]
    pub(crate) fn open_by_state(&self) -> BTreeMap<OpenState, usize> {
        let mut counts = BTreeMap::new();
        for shard in &self.open {
            *counts.entry(shard.state).or_default() += 1;
        }
        counts
    }
}

/// Describes an input that is not done.
fn open_shard(
    shard: &ShardRef,
    input: &str,
    (failure, problem): (Option<&FailureRecord>, Option<&str>),
    has_record: bool,
) -> OpenShard {
    let unavailable = || shard.lookup_error().map(|error| error.message.clone());
    let (state, detail) = match (failure, problem) {
        // A failure of an earlier version of the input says nothing about this one.
        (Some(failure), _) if failure.is_permanent() && failure.input == input => {
            (OpenState::FailedPermanently, Some(failure.error.clone()))
        }
        (Some(failure), _) => (OpenState::Failed, Some(failure.error.clone())),
        (None, Some(problem)) => (OpenState::Invalid, Some(problem.to_owned())),
        (None, None) if has_record => (OpenState::Changed, unavailable()),
        (None, None) => (OpenState::Pending, unavailable()),
    };
    OpenShard { shard: shard.url.clone(), state, detail }
}
