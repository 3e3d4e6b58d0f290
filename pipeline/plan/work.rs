//! What is done and what is pending: the run's own comparison of inputs and output.

use std::{collections::BTreeMap, sync::Arc};

use recaption_input::{read::Splitter, shards::ShardRef};
use recaption_output::commits::{CommitLog, OutputScan, configuration_fingerprint};
use recaption_store::Location;
use serde::Serialize;

use super::{
    output::UNWRITABLE,
    problem::{Findings, Subject, text_of},
};
use crate::{
    config::RunConfig,
    run::{ArrayTask, DoneShard, Mismatch, Plan, RunModel, RunOptions, Task, compare, refuse_others},
};

/// Most shards that are named for each reason.
const MAX_EXAMPLES: usize = 5;

/// Shards that are processed again, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redo {
    /// Why.
    pub why: String,
    /// Number of shards.
    pub shards: usize,
    /// The first of them.
    pub examples: Vec<String>,
}

/// A shard to process.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) shard: ShardRef,
    /// Its samples, where a record of the same input says so, or those of them that are processed again.
    pub(super) recorded: Option<u64>,
}

/// The shards of a run.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) pending: Vec<Pending>,
    pub(super) done: Vec<DoneShard>,
    pub(super) redo: Vec<Redo>,
    pub(super) not_selected: usize,
    /// Shards of the output that are no longer among the inputs.
    pub(super) orphaned: usize,
    /// Keys that change rows; `None` without a model.
    pub(super) configuration: Option<BTreeMap<String, String>>,
}

/// Where work is looked for.
pub(super) struct Place<'a> {
    pub(super) output: Option<&'a Location>,
    pub(super) config: &'a RunConfig,
    pub(super) options: &'a RunOptions,
}

/// Compares the inputs with the output. Where that is impossible, everything is pending.
pub(super) async fn find_work(
    place: Place<'_>,
    model: Option<&RunModel>,
    shards: Vec<ShardRef>,
    findings: &mut Findings,
) -> Work {
    let Place { output, config, options } = place;
    // Without an output nothing is done, and no parts of lists are known.
    let (nowhere, known) = (Location::nowhere(), output.is_some());
    let output = output.unwrap_or(&nowhere);
    let splitter = Splitter { settings: &config.input.read, output, can_write: false };
    let Some(model) = model.filter(|_| known) else {
        findings.note("what is done is unknown without model and output: everything counts as pending");
        let split = splitter.split(shards, |_| false).await;
        let shards = split.map(|split| split.shards).unwrap_or_else(|error| {
            findings.add(Subject::Input, "", error.to_string(), "rename one of the inputs");
            Vec::new()
        });
        let pending = |shard| Pending { shard, recorded: None };
        return Work { pending: shards.into_iter().map(pending).collect(), ..Work::default() };
    };
    let keys = model.row_keys(config);
    let commit_log = CommitLog::new(output.clone());
    let (found, options) = scan((&commit_log, output), &keys, options, findings).await;
    let found = (found.0, &*found.1);
    match compare(shards, found, (&commit_log, splitter), (config, model), &options).await {
        Ok(plan) => {
            note_failures(&commit_log, &plan, findings).await;
            Work::of(&plan)
        }
        Err(error) => {
            let remedy = "see what it says, then plan again";
            findings.add(Subject::Output, output.url(), text_of(&error), remedy);
            Work { configuration: Some(keys), ..Work::default() }
        }
    }
}

/// Lists the records of the output. One that cannot be listed, or has another configuration, is a problem, and what follows is
/// planned as if it were replaced.
async fn scan(
    (commit_log, output): (&CommitLog, &Location),
    keys: &BTreeMap<String, String>,
    options: &RunOptions,
    findings: &mut Findings,
) -> ((OutputScan, Vec<String>), RunOptions) {
    let replacing = RunOptions { overwrite: true, retry: false, ..*options };
    let listed = tokio::try_join!(commit_log.scan(), commit_log.pending_deletions());
    let found = match listed {
        Ok(found) => found,
        Err(error) => {
            let (place, what) = super::output::parts_of(&error);
            // What cannot be written for a reason that applies to reading too is one problem.
            let is_known = findings.problems.iter().any(|problem| problem.what.starts_with(UNWRITABLE));
            if !is_known {
                let what = format!("it cannot be read: {what}");
                findings.add(Subject::Output, place, what, "allow listing and reading there");
            }
            findings.note("the output cannot be read: everything counts as pending");
            return ((OutputScan::default(), Vec::new()), replacing);
        }
    };
    if options.overwrite {
        return (found, *options);
    }
    let fingerprint = configuration_fingerprint(keys);
    match refuse_others(&found.0, commit_log, (&fingerprint, keys)).await {
        Ok(()) => (found, *options),
        Err(error) => {
            let what = match error.downcast_ref::<Mismatch>() {
                Some(mismatch) => {
                    format!("the output was made with another configuration: {}", mismatch.differences)
                }
                None => text_of(&error),
            };
            let remedy = "choose another output, or replace this one with --overwrite";
            findings.add(Subject::Output, output.url(), what, remedy);
            (found, replacing)
        }
    }
}

/// Notes pending shards that failed before.
async fn note_failures(commit_log: &CommitLog, plan: &Plan, findings: &mut Findings) {
    let Ok(failed) = commit_log.failures().await else { return };
    let pending = plan.todo.iter().filter(|task| failed.iter().any(|name| name == task.shard.id.as_str()));
    let pending = pending.count();
    if pending > 0 {
        findings.note(format!(
            "{pending} of the pending shards failed in an earlier run and may fail again; `recaption status` says why"
        ));
    }
}

impl Work {
    /// Notes how many shards are the share of a task that also helps with the others.
    pub(super) fn note_share(&self, task: Option<ArrayTask>, findings: &mut Findings) {
        let Some(task) = task.filter(|task| task.steal) else { return };
        let own = self.pending.iter().filter(|pending| task.owns(&pending.shard.id)).count();
        findings.note(format!(
            "{own} of the pending shards are the share of task {} of {} and come first; hours are those of one task that does all",
            task.index, task.count
        ));
    }

    fn of(plan: &Plan) -> Self {
        let mut redo: BTreeMap<String, Redo> = BTreeMap::new();
        for task in plan.todo.iter() {
            let Some(why) = why_again(task) else { continue };
            let entry =
                redo.entry(why.clone()).or_insert_with(|| Redo { why, shards: 0, examples: Vec::new() });
            entry.shards += 1;
            if entry.examples.len() < MAX_EXAMPLES {
                entry.examples.push(task.shard.url.clone());
            }
        }
        let pending = |task: &Arc<Task>| Pending { shard: task.shard.clone(), recorded: recorded(task) };
        Self {
            pending: plan.todo.iter().map(pending).collect(),
            done: plan.done.clone(),
            redo: redo.into_values().collect(),
            not_selected: plan.not_selected,
            orphaned: plan.orphans.len(),
            configuration: Some(plan.configuration.clone()),
        }
    }
}

/// Returns why a shard that has a record is processed again.
fn why_again(task: &Task) -> Option<String> {
    if let Some(keep) = &task.keep {
        let reasons: Vec<&str> = keep.retried.iter().map(|reason| reason.as_str()).collect();
        return Some(format!("samples rejected as {} are tried again", reasons.join(", ")));
    }
    let records = || task.replaces.iter().chain(&task.stale_records);
    if records().any(|record| record.problem.is_some()) {
        return Some("the record or a part is invalid".to_owned());
    }
    if records().any(|record| record.name.configuration != task.name.configuration) {
        return Some("it was made with another configuration".to_owned());
    }
    records().any(|record| record.name.input != task.name.input).then(|| "the input changed".to_owned())
}

/// Returns the samples of a shard whose input has not changed since it was recorded, or those that are processed again.
fn recorded(task: &Task) -> Option<u64> {
    if let Some(keep) = &task.keep {
        let reasons = &keep.commit.counts.reasons;
        return Some(keep.retried.iter().filter_map(|reason| reasons.get(reason.as_str())).sum());
    }
    let same =
        task.replaces.iter().chain(&task.stale_records).find(|record| record.name.input == task.name.input);
    Some(same?.summary.as_ref()?.counts.read)
}
