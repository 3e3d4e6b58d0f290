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
use recaption_schemas::{RejectReason, ShardId};

use super::{
    options::RunOptions,
    selection::Selection,
    task::{Done, DoneShard, DoneShards, InputNames, Keep, Task},
};

/// An output that was made with another configuration. Ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error(
    "the output was made with another configuration; {differences}. Choose another output, or replace this one with --overwrite"
)]
pub struct Mismatch {
    /// Keys with both values.
    pub differences: String,
}

/// The shards of a run.
#[derive(Debug)]
pub struct Plan {
    /// Shards to process, in input order.
    pub todo: Vec<Arc<Task>>,
    /// Shards that are done, with what their records say.
    pub done: Vec<DoneShard>,
    /// Records and parts that unfinished attempts left of shards that are done.
    pub leftovers: Vec<ShardState>,
    /// Shards of the output that are no longer among the inputs.
    pub orphans: Orphans,
    /// Parts that lists had before they became shorter, by list.
    pub superseded: BTreeMap<String, Orphans>,
    /// Names of all inputs, and those that they have in outputs of versions before 0.2.
    pub inputs: InputNames,
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
        let inputs = InputNames::of(&split.shards);
        let selection = Selection::new(&split.shards, options, seed);
        let can_retry = options.retry || options.overwrite;
        let shards = std::mem::take(&mut split.shards).into_iter().map(|shard| (name_of(&shard), shard));
        let sorted = sort_shards(shards, &mut survey, &selection, can_retry);
        let Sorted { mut todo, mut done, retriable, repaired, mut incomplete, mut not_selected } = sorted;
        if options.retry {
            let before = todo.len();
            incomplete.extend(todo.iter().map(|task| task.shard.location.url()));
            todo = failed_before(todo, commit_log, &split).await?;
            not_selected += before - todo.len();
        }
        let (retries, rest) = select_retries(retriable, commit_log, (settings, options)).await?;
        todo.extend(retries.into_iter().map(Arc::new));
        rest.into_iter().for_each(|one| done.add(one));
        let (superseded, orphans) = split_off_stale_parts(&mut survey, &split, &incomplete);
        let removals = with_parts(&survey, removals);
        let strays = with_parts(&survey, &CommitLog::orphaned_shards(&survey));
        Ok(Self {
            todo,
            done: done.done,
            leftovers: done.leftovers,
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

/// The shards of a plan, before any is retried.
#[derive(Default)]
struct Sorted {
    todo: Vec<Arc<Task>>,
    done: DoneShards,
    /// Shards that are done but may be retried.
    retriable: Vec<Done>,
    repaired: Vec<String>,
    /// Objects of which some shards are not selected.
    incomplete: HashSet<String>,
    not_selected: usize,
}

fn sort_shards(
    shards: impl Iterator<Item = (RecordName, ShardRef)>,
    survey: &mut OutputScan,
    selection: &Selection,
    can_retry: bool,
) -> Sorted {
    let mut sorted = Sorted::default();
    for (name, shard) in shards {
        let mut found = survey.take(&shard.url, &name);
        // A shard that cannot be looked at now keeps what it has, but is reported.
        if shard.lookup_error().is_none()
            && let Some(standing) = found.done.take()
        {
            let one = Done { shard, name, standing, found };
            if can_retry {
                sorted.retriable.push(one)
            } else {
                sorted.done.add(one)
            }
            continue;
        }
        if !selection.has(&shard) {
            sorted.not_selected += 1;
            sorted.incomplete.insert(shard.location.url());
            continue;
        }
        let found = if shard.lookup_error().is_some() { ShardState::default() } else { found };
        sorted.repaired.extend(faults_of(&shard, &found));
        sorted.todo.push(Arc::new(Task::new(shard, name, found)));
    }
    sorted
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
    shards.iter().map(|shard| (shard.clone(), survey.parts_of(shard))).collect()
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
        let parts = survey.parts_of(&shard);
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
async fn failed_before(
    todo: Vec<Arc<Task>>,
    commit_log: &CommitLog,
    split: &Split,
) -> anyhow::Result<Vec<Arc<Task>>> {
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
    let has_failed = |task: &Arc<Task>| {
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
    let looked: Vec<(Done, Option<Box<Keep>>)> = stream::iter(done)
        .map(|done| async move {
            let facts = done.standing.summary.as_ref();
            let retried =
                facts.map(|facts| retried_reasons(facts, settings, options.retry)).unwrap_or_default();
            let commit = match retried.is_empty() {
                true => None,
                false => commit_log.find(&done.standing.file, &done.name).await?,
            };
            anyhow::Ok((done, commit.map(|commit| Box::new(Keep { commit: Box::new(commit), retried }))))
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
        let (stale_records, orphaned_parts) = (stale_records.into(), orphaned_parts.into());
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
