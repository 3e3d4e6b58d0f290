//! The plan of a run: inputs compared with commit records.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};
use recaption_input::{
    read::{Split, Splitter, StalePart},
    shards::ShardRef,
};
use recaption_output::commits::{
    CommitError, CommitLog, ExistingPart, ExistingRecord, OutputScan, RecordName, RecordSummary, ShardState,
    configuration_fingerprint,
};
use recaption_schemas::{RejectReason, ShardCommit, ShardId};

use super::{options::RunOptions, selection::Selection};

/// An output that was made with another configuration. Ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error(
    "the output was made with another configuration; {differences}. Choose another output, or replace this one with --overwrite"
)]
pub struct Mismatch {
    /// Keys with both values.
    pub differences: String,
}

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
    pub stale_records: Vec<ExistingRecord>,
    /// Parts that are obsolete once its record is written.
    pub orphaned_parts: Vec<ExistingPart>,
    /// In a retry, the record whose rows stay, except for samples that were rejected for a transient reason.
    pub keep: Option<Keep>,
}

impl Task {
    /// Of a shard that is not done.
    pub(crate) fn new(shard: ShardRef, name: RecordName, found: ShardState) -> Self {
        let ShardState { replaces, stale_records, orphaned_parts, .. } = found;
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
struct Done {
    shard: ShardRef,
    name: RecordName,
    standing: ExistingRecord,
    found: ShardState,
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

/// The shards of a run.
#[derive(Debug)]
pub struct Plan {
    /// Shards to process, in input order.
    pub todo: Vec<Arc<Task>>,
    /// Shards that are done.
    pub done: Vec<ShardId>,
    /// The same shards, with what their records say.
    pub done_shards: Vec<DoneShard>,
    /// Records and parts that unfinished attempts left of shards that are done.
    pub leftovers: Vec<ShardState>,
    /// Shards of the output that are no longer among the inputs.
    pub orphans: Orphans,
    /// Parts that lists had before they became shorter, by list.
    pub superseded: BTreeMap<String, Orphans>,
    /// Names of all inputs, and those that they have in outputs of versions before 0.2.
    pub inputs: HashSet<ShardId>,
    /// Old parts of shards without a record.
    pub strays: Vec<(String, Vec<ExistingPart>)>,
    /// Parts of shards whose deletion an earlier run did not finish.
    pub removals: Vec<(String, Vec<ExistingPart>)>,
    /// Shards that are processed again because their record or a part was invalid, with the reason.
    pub repaired: Vec<String>,
    /// Shards that are skipped because they are not in the share of `--sample` or of the task, did not change since `--since`, or
    /// have nothing to retry.
    pub not_selected: usize,
    /// Lists among the inputs; its shards are in the tasks.
    pub split: Split,
    /// Keys that change rows.
    pub configuration: BTreeMap<String, String>,
}

impl Plan {
    /// Compares inputs and records by name. Long lists are split first.
    ///
    /// # Errors
    /// [`Mismatch`] when the output holds rows of another configuration and `overwrite` is off; errors of the store.
    pub async fn make(
        shards: Vec<ShardRef>,
        (mut survey, removals): (OutputScan, &[String]),
        (commit_log, splitter): (&CommitLog, Splitter<'_>),
        (configuration, settings): (BTreeMap<String, String>, &Settings),
        (options, seed): (&RunOptions, u64),
    ) -> anyhow::Result<Self> {
        let fingerprint = configuration_fingerprint(&configuration);
        if !options.overwrite {
            refuse_others(&survey, commit_log, (&fingerprint, &configuration)).await?;
        }
        let name_of =
            |shard: &ShardRef| RecordName { input: shard.fingerprint(), configuration: fingerprint.clone() };
        let is_done = |shard: &ShardRef| survey.done(&shard.url, &name_of(shard)).is_some();
        let mut split = splitter.split(shards, is_done).await?;
        let inputs = names_of(&split);
        let selection = Selection::new(&split.shards, options, seed);
        let (mut todo, mut done, mut not_selected, mut repaired) = (Vec::new(), Vec::new(), 0, Vec::new());
        let mut incomplete = HashSet::new(); // objects of which some shards are not selected
        for shard in std::mem::take(&mut split.shards) {
            let name = name_of(&shard);
            let mut found = survey.take(&shard.url, &name);
            // A shard that cannot be looked at now keeps what it has, but is reported.
            if shard.lookup_error().is_none()
                && let Some(standing) = found.done.take()
            {
                done.push(Done { shard, name, standing, found });
                continue;
            }
            if !selection.has(&shard) {
                not_selected += 1;
                incomplete.insert(shard.location.url());
                continue;
            }
            let found = if shard.lookup_error().is_some() { ShardState::default() } else { found };
            repaired.extend(faults_of(&shard, &found));
            todo.push(Task::new(shard, name, found));
        }
        if options.retry {
            let before = todo.len();
            incomplete.extend(todo.iter().map(|task| task.shard.location.url()));
            todo = failed_before(todo, commit_log, &split).await?;
            not_selected += before - todo.len();
        }
        let (retries, done) = select_retries(done, commit_log, (settings, options)).await?;
        todo.extend(retries);
        let done_shards = done.iter().map(DoneShard::new).collect();
        let (done, leftovers) = done.into_iter().map(|done| (done.shard.id, done.found)).unzip();
        let (superseded, orphans) = split_off_stale_parts(&mut survey, &split, &incomplete);
        let removals = with_parts(&survey, removals);
        let strays = with_parts(&survey, &CommitLog::orphaned_shards(&survey));
        Ok(Self {
            todo: todo.into_iter().map(Arc::new).collect(),
            done,
            done_shards,
            leftovers,
            orphans,
            superseded,
            split,
            inputs,
            strays,
            removals,
            repaired,
            not_selected,
            configuration,
        })
    }

    /// Bytes to be read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.todo.iter().map(|t| t.shard.bytes()).sum()
    }
}

/// Rejects an output that is claimed for another configuration or, where it is not claimed, holds rows of another.
///
/// # Errors
/// [`Mismatch`], or errors of the store.
pub(crate) async fn refuse_others(
    survey: &OutputScan,
    commit_log: &CommitLog,
    (fingerprint, configuration): (&str, &BTreeMap<String, String>),
) -> anyhow::Result<()> {
    let other = match commit_log.configuration().await? {
        Some(claim) if claim.fingerprint == fingerprint => return Ok(()),
        Some(claim) => claim.configuration,
        None => {
            let others =
                survey.records().filter(|(_, s)| s.summary.is_some() && s.name.configuration != fingerprint);
            let Some((_, standing)) = others.min_by(|a, b| a.0.cmp(b.0)) else { return Ok(()) };
            commit_log.read(&standing.file, &standing.name).await?.configuration
        }
    };
    Err(Mismatch { differences: differences(&other, configuration) }.into())
}

/// Turns a failed claim or commit into the error that ends the program.
pub(crate) fn unclaimed(error: CommitError, configuration: &BTreeMap<String, String>) -> anyhow::Error {
    match error {
        CommitError::ConfigurationMismatch(claim) => {
            Mismatch { differences: differences(&claim.configuration, configuration) }.into()
        }
        CommitError::Store(error) => error.into(),
    }
}

/// Shards by name, with the parts that exist of them.
fn with_parts(survey: &OutputScan, shards: &[String]) -> Vec<(String, Vec<ExistingPart>)> {
    shards.iter().map(|shard| (shard.clone(), survey.parts_of(shard).to_vec())).collect()
}

/// Names of all inputs, today's and those of versions before 0.2.
fn names_of(split: &Split) -> HashSet<ShardId> {
    let names = |shard: &ShardRef| [shard.id.clone(), ShardId::old_from_url(&shard.url)];
    split.shards.iter().flat_map(names).collect()
}

/// Logs what was invalid about a shard that was done.
fn faults_of(shard: &ShardRef, found: &ShardState) -> Vec<String> {
    let invalid = found.replaces.iter().chain(&found.stale_records);
    let invalid = invalid.filter_map(|standing| Some((standing, standing.problem.as_ref()?)));
    let warn = |(standing, problem): (&ExistingRecord, &String)| {
        tracing::warn!(record = standing.path(), problem, "processing the shard again");
        format!("{}: {problem}", shard.url)
    };
    invalid.map(warn).collect()
}

/// Takes parts of lists from the shards without an input; gives those that the lists do not have any more, but for lists of
/// which shards are not selected (`incomplete`): these keep them. And all others, which have no input.
fn split_off_stale_parts(
    survey: &mut OutputScan,
    split: &Split,
    incomplete: &HashSet<String>,
) -> (BTreeMap<String, Orphans>, Orphans) {
    let (mut superseded, mut orphans): (BTreeMap<String, Orphans>, _) = (BTreeMap::new(), Orphans::new());
    for (shard, standing) in survey.take_records() {
        let parts = survey.parts_of(&shard).to_vec();
        match split.stale_part(&shard) {
            Some(StalePart::Superseded(list)) if !incomplete.contains(list) => {
                superseded.entry(list.to_owned()).or_default().insert(shard, (standing, parts));
            }
            Some(_) => {}
            None => drop(orphans.insert(shard, (standing, parts))),
        }
    }
    (superseded, orphans)
}

/// Shards without an input, with their records and parts.
pub(super) type Orphans = BTreeMap<String, (Vec<ExistingRecord>, Vec<ExistingPart>)>;

/// Settings that are no row keys and yet make rejects, with their values.
pub(super) type Settings = BTreeMap<String, String>;

/// Commit records read at the same time.
const RECORDS_AT_ONCE: usize = 64;

/// Of shards that are not done those that failed before.
async fn failed_before(todo: Vec<Task>, commit_log: &CommitLog, split: &Split) -> anyhow::Result<Vec<Task>> {
    let failed: HashSet<String> = commit_log.failures().await?.into_iter().collect();
    // A list that could not be looked at failed for all its parts, and one that cannot be looked at now is there for them.
    let for_parts: HashSet<&str> = failed
        .iter()
        .filter_map(|shard| match split.stale_part(shard)? {
            StalePart::ListUnavailable(list) => Some(list),
            StalePart::Superseded(_) => None,
        })
        .collect();
    let has = |url: &str| {
        failed.contains(ShardId::from_url(url).as_str())
            || failed.contains(ShardId::old_from_url(url).as_str())
    };
    let has_failed = |task: &Task| {
        let (shard, list) = (&task.shard, task.shard.location.url());
        // A shard that was done and is invalid now is always processed.
        let invalid =
            task.replaces.iter().chain(&task.stale_records).any(|standing| standing.problem.is_some());
        invalid
            || has(&shard.url)
            || shard.list_part().is_some() && has(&list)
            || for_parts.contains(list.as_str())
    };
    Ok(todo.into_iter().filter(has_failed).collect())
}

/// Shards that are done but rejected samples for a reason that may be gone by now: one that passes (in a `retry`), or a
/// setting that is another one now.
async fn select_retries(
    done: Vec<Done>,
    commit_log: &CommitLog,
    (settings, options): (&Settings, &RunOptions),
) -> anyhow::Result<(Vec<Task>, Vec<Done>)> {
    if !options.retry && !options.overwrite {
        return Ok((Vec::new(), done));
    }
    let looked: Vec<(Done, Option<Keep>)> = stream::iter(done)
        .map(|done| async move {
            let facts = done.standing.summary.as_ref();
            let retried =
                facts.map(|facts| retried_reasons(facts, settings, options.retry)).unwrap_or_default();
            let commit = match retried.is_empty() {
                true => None,
                false => commit_log.find(&done.standing.file, &done.name).await?,
            };
            anyhow::Ok((done, commit.map(|commit| Keep { commit: Box::new(commit), retried })))
        })
        .buffered(RECORDS_AT_ONCE)
        .try_collect()
        .await?;
    let (mut todo, mut rest) = (Vec::new(), Vec::new());
    for (done, keep) in looked {
        if keep.is_none() {
            rest.push(done);
            continue;
        }
        let Done { shard, name, standing, found } = done;
        let ShardState { mut stale_records, mut orphaned_parts, .. } = found;
        let parts = standing.summary.iter().flat_map(|facts| facts.parts());
        let epoch = chrono::DateTime::UNIX_EPOCH;
        orphaned_parts.extend(parts.map(|p| ExistingPart {
            path: p.path.clone(),
            bytes: p.bytes,
            modified: epoch,
        }));
        // A record under an old name is not replaced in its place.
        let replaces = if standing.file == shard.id.as_str() {
            Some(standing)
        } else {
            stale_records.push(standing);
            None
        };
        todo.push(Task { shard, name, replaces, stale_records, orphaned_parts, keep });
    }
    Ok((todo, rest))
}

/// Reasons of a shard's rejects that another attempt may turn into captions.
fn retried_reasons(facts: &RecordSummary, settings: &Settings, retry: bool) -> Vec<RejectReason> {
    let has = |reason: &RejectReason| facts.counts.reasons.contains_key(reason.as_str());
    let passes = |reason: &RejectReason| {
        retry && reason.is_transient()
            || reason.setting().is_some_and(|(name, default)| {
                let was = facts.settings.get(name).map_or(default, String::as_str);
                settings.get(name).is_some_and(|now| now != was)
            })
    };
    RejectReason::ALL.into_iter().filter(|reason| has(reason) && passes(reason)).collect()
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
