//! What is to be done: inputs against commit records.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};
use recaption_stages::{
    commits::{Ledger, RecordName, Records, configuration_fingerprint},
    read::{Leftover, Split, Splitter},
    schemas::{RejectReason, ShardCommit, ShardId},
    shards::ShardRef,
};

use super::RunOptions;

/// An output that was made with another configuration. Ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error(
    "the output was made with another configuration; {differences}. Choose another output, or replace this one with --overwrite"
)]
pub struct Mismatch {
    /// Keys with both values.
    pub differences: String,
}

/// One shard to be done.
pub struct Task {
    /// The input.
    pub shard: ShardRef,
    /// Fingerprints of input and configuration.
    pub name: RecordName,
    /// Records of the same shard that no longer hold; they go before its parts are replaced.
    pub stale: Vec<RecordName>,
    /// Of a retry: the record whose rows stay, but for samples that were rejected for a reason that may pass.
    pub keep: Option<Box<ShardCommit>>,
}

/// The shards of a run.
pub struct Plan {
    /// To be done, in input order.
    pub todo: Arc<Vec<Task>>,
    /// Shards that need nothing.
    pub done: Vec<ShardId>,
    /// Shards in the output that are not among the inputs any more.
    pub orphans: Orphans,
    /// Parts that lists had before they became shorter, by list.
    pub superseded: BTreeMap<String, Orphans>,
    /// Names of all inputs.
    pub inputs: HashSet<ShardId>,
    /// Shards that are left alone, because they did not change lately or have nothing to retry.
    pub passed_over: usize,
    /// Lists among the inputs; its shards are in the tasks.
    pub split: Split,
    /// Keys that change rows.
    pub configuration: BTreeMap<String, String>,
}

impl Plan {
    /// Compares inputs and records, by name. At most one record is opened; for a retry, all of them. Long lists are split
    /// first.
    ///
    /// # Errors
    /// [`Mismatch`] when the output holds rows of another configuration and `overwrite` is off; errors of the store.
    pub async fn make(
        shards: Vec<ShardRef>,
        mut records: Records,
        (ledger, splitter): (&Ledger, Splitter<'_>),
        configuration: BTreeMap<String, String>,
        options: &RunOptions,
    ) -> anyhow::Result<Self> {
        let fingerprint = configuration_fingerprint(&configuration);
        if !options.overwrite {
            refuse_others(&records, ledger, (&fingerprint, &configuration)).await?;
        }
        let name_of =
            |shard: &ShardRef| RecordName { input: shard.fingerprint(), configuration: fingerprint.clone() };
        let is_done =
            |shard: &ShardRef| records.get(shard.id.as_str()).is_some_and(|names| *names == [name_of(shard)]);
        let mut split = splitter.split(shards, is_done).await?;
        let inputs = split.shards.iter().map(|shard| shard.id.clone()).collect();
        let (mut todo, mut done, mut passed_over) = (Vec::new(), Vec::new(), 0);
        // Objects of which something is left undone on purpose.
        let mut left: HashSet<String> = HashSet::new();
        for shard in std::mem::take(&mut split.shards) {
            let name = name_of(&shard);
            let mut stale = records.remove(shard.id.as_str()).unwrap_or_default();
            // A shard that cannot be looked at now keeps what it has, but is reported.
            if stale.contains(&name) && stale.len() == 1 && shard.missing.is_none() {
                done.push(shard);
                continue;
            }
            if options.since.is_some_and(|since| shard.modified.is_some_and(|modified| modified < since)) {
                passed_over += 1;
                left.insert(shard.location.url());
                continue;
            }
            if shard.missing.is_some() {
                stale.clear();
            }
            todo.push(Task { shard, name, stale, keep: None });
        }
        if options.retry {
            let before = todo.len();
            left.extend(todo.iter().map(|task| task.shard.location.url()));
            todo = retried((todo, &mut done), ledger, &fingerprint, &split).await?;
            passed_over += before.saturating_sub(todo.len());
        }
        let done = done.into_iter().map(|shard| shard.id).collect();
        let superseded = take_parts(&mut records, &split, &left);
        Ok(Self {
            todo: Arc::new(todo),
            done,
            orphans: records,
            superseded,
            split,
            inputs,
            passed_over,
            configuration,
        })
    }

    /// Bytes to be read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.todo.iter().map(|t| t.shard.bytes()).sum()
    }
}

/// Refuses an output that holds rows of another configuration.
async fn refuse_others(
    records: &Records,
    ledger: &Ledger,
    (fingerprint, configuration): (&str, &BTreeMap<String, String>),
) -> anyhow::Result<()> {
    let other = |names: &[RecordName]| names.iter().find(|name| name.configuration != fingerprint).cloned();
    let Some((shard, name)) = records.iter().find_map(|(shard, names)| Some((shard, other(names)?))) else {
        return Ok(());
    };
    let commit = ledger.read(shard, &name).await?;
    Err(Mismatch { differences: differences(&commit.configuration, configuration) }.into())
}

/// Takes parts of lists from the shards without an input; gives those that the lists do not have any more, but for lists of
/// which something is `left` undone: these keep them.
fn take_parts(records: &mut Records, split: &Split, left: &HashSet<String>) -> BTreeMap<String, Orphans> {
    let mut superseded: BTreeMap<String, Orphans> = BTreeMap::new();
    records.retain(|shard, names| match split.leftover(shard) {
        Some(Leftover::Superseded(list)) if !left.contains(list) => {
            superseded.entry(list.to_owned()).or_default().insert(shard.clone(), std::mem::take(names));
            false
        }
        Some(_) => false,
        None => true,
    });
    superseded
}

/// Shards without an input, with their records.
pub type Orphans = Records;

/// Commit records read at the same time.
const RECORDS_AT_ONCE: usize = 64;

/// Of shards that are not done those that failed before, and shards that are done but rejected samples for a reason that
/// may be gone by now.
async fn retried(
    (todo, done): (Vec<Task>, &mut Vec<ShardRef>),
    ledger: &Ledger,
    configuration: &str,
    split: &Split,
) -> anyhow::Result<Vec<Task>> {
    let failed: HashSet<String> = ledger.failures().await?.into_iter().collect();
    // A list that could not be looked at failed for all its parts, and one that cannot be looked at now is there for them.
    let for_parts: HashSet<&str> = failed
        .iter()
        .filter_map(|shard| match split.leftover(shard)? {
            Leftover::Unknown(list) => Some(list),
            Leftover::Superseded(_) => None,
        })
        .collect();
    let has_failed = |shard: &ShardRef| {
        let list = shard.location.url();
        failed.contains(shard.id.as_str())
            || shard.part.is_some() && failed.contains(ShardId::from_url(&list).as_str())
            || for_parts.contains(list.as_str())
    };
    let mut again: Vec<Task> = todo.into_iter().filter(|task| has_failed(&task.shard)).collect();
    let looked: Vec<(ShardRef, RecordName, Option<ShardCommit>)> = stream::iter(std::mem::take(done))
        .map(|shard| async move {
            let name = RecordName { input: shard.fingerprint(), configuration: configuration.to_owned() };
            let commit = ledger.find(shard.id.as_str(), &name).await?;
            anyhow::Ok((shard, name, commit.filter(may_pass)))
        })
        .buffered(RECORDS_AT_ONCE)
        .try_collect()
        .await?;
    for (shard, name, commit) in looked {
        match commit {
            Some(commit) => {
                let keep = Some(Box::new(commit));
                again.push(Task { shard, stale: vec![name.clone()], name, keep });
            }
            None => done.push(shard),
        }
    }
    Ok(again)
}

/// Whether a shard holds rejects that another attempt may turn into captions.
fn may_pass(commit: &ShardCommit) -> bool {
    let transient = RejectReason::ALL.iter().filter(|reason| reason.is_transient());
    transient.into_iter().any(|reason| commit.counts.reasons.contains_key(reason.as_str()))
}

/// The keys that differ, with both values.
pub(crate) fn differences(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> String {
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |v: Option<&String>| v.map_or("unset".to_owned(), |v| v.chars().take(80).collect());
    let lines: Vec<String> = keys
        .into_iter()
        .filter(|k| old.get(*k) != new.get(*k))
        .map(|k| format!("`{k}` was {}, is {}", show(old.get(k)), show(new.get(k))))
        .collect();
    lines.join("; ")
}
