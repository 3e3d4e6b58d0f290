//! The state of an output: commit records, failures, and the inputs of its last run.

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use recaption_input::{
    read::{Split, Splitter},
    shards::{ListError, ShardRef, list_shards},
};
use recaption_output::{
    commits::{CommitLog, OutputScan, RecordSummary},
    object_digest,
};
use recaption_schemas::{Counts, FailureRecord};
use recaption_store::{Location, StoreError, Stores};
use serde::Serialize;

use super::{
    comparison::{Comparison, OpenState},
    last_run::LastRun,
};
use crate::config::RunConfig;

/// Failures read at the same time.
const CONCURRENCY: usize = 64;
/// Parts read at the same time.
const AT_ONCE: usize = 16;

/// The state of an output.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// URL, redacted.
    pub output: String,
    /// The last run.
    pub last_run: String,
    /// When it ended, RFC 3339.
    pub last_run_finished: String,
    /// Shards with a commit record whose input is as it was.
    pub done: usize,
    /// Records that cannot be used, and parts that do not match their record: these shards are processed again.
    pub invalid: Vec<String>,
    /// Whether all parts were read and compared.
    pub verified: bool,
    /// Parts that no record names: of attempts under way, or of dead workers.
    pub unclaimed: usize,
    /// Shards that could be read only in part, with the reason.
    pub damaged: Vec<String>,
    /// Inputs without a record; unknown where they cannot be listed.
    pub pending: Option<usize>,
    /// Inputs that changed since they were done.
    pub changed: Option<usize>,
    /// Why the inputs cannot be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs_unknown: Option<String>,
    /// Shards in the output that are not among the inputs any more.
    pub orphaned: Option<usize>,
    /// Shards that failed.
    pub failed: Vec<FailureRecord>,
    /// Where the samples of done shards went.
    pub counts: Counts,
}

/// Looks at an output; loads no model. With `verify`, reads all parts and compares their sums with the records'.
///
/// # Errors
/// When it is none, or cannot be read.
pub async fn status(stores: &mut Stores, output: &Location, verify: bool) -> anyhow::Result<Status> {
    let last = LastRun::of(output).await?;
    let commit_log = CommitLog::new(output.clone());
    let survey = commit_log.scan().await?;
    let failed = read_failures(&commit_log).await?;
    let (counts, damaged) = count(&survey);
    let mut invalid: Vec<String> = invalid_of(&survey);
    if verify {
        invalid.extend(compare_sums(output, &survey).await?);
    }
    invalid.sort();
    let claimed = commit_log.configuration().await?.map(|claim| claim.fingerprint);
    let inputs = inputs_of(stores, &last, output, &survey).await;
    let mut status = Status {
        output: output.url(),
        last_run: last.run,
        last_run_finished: last.finished,
        done: survey.records().filter(|(_, standing)| standing.is_valid()).count(),
        invalid,
        verified: verify,
        unclaimed: survey.parts_without_record().count(),
        damaged,
        pending: None,
        changed: None,
        inputs_unknown: None,
        orphaned: None,
        failed,
        counts,
    };
    match inputs {
        Ok(split) => status.add(Comparison::new(&survey, &split, claimed.as_deref(), &status.failed)),
        Err(error) => status.inputs_unknown = Some(format!("{error:#}")),
    }
    Ok(status)
}

impl Status {
    fn add(&mut self, found: Comparison) {
        let counts = found.open_by_state();
        let number = |state| counts.get(&state).copied().unwrap_or(0);
        self.done = found.done;
        self.pending = Some(number(OpenState::Pending) + number(OpenState::Invalid));
        self.changed = Some(number(OpenState::Changed));
        self.orphaned = Some(found.orphaned);
        // A failure of a shard that is no longer an input is irrelevant.
        self.failed = found.failed;
    }

    /// Returns whether records or parts are invalid.
    #[must_use]
    pub fn has_invalid(&self) -> bool {
        !self.invalid.is_empty()
    }
}

/// Lists invalid records, and parts that do not match their record as far as listings show.
fn invalid_of(survey: &OutputScan) -> Vec<String> {
    let invalid = survey.records().filter_map(|(_, standing)| Some((standing, standing.problem.as_ref()?)));
    invalid.map(|(standing, fault)| format!("{}: {fault}", standing.path())).collect()
}

/// Reads all parts that are there and have their size, and compares their sums with the records'.
async fn compare_sums(output: &Location, survey: &OutputScan) -> anyhow::Result<Vec<String>> {
    let parts = survey.records().filter(|(_, standing)| standing.is_valid()).flat_map(|(_, standing)| {
        let parts = standing.summary.iter().flat_map(RecordSummary::parts);
        parts.map(|part| (standing.path(), part.clone())).collect::<Vec<_>>()
    });
    let compared = stream::iter(parts.collect::<Vec<_>>()).map(|(record, part)| async move {
        let Some(wanted) = &part.sha256 else { return anyhow::Ok(None) };
        let found = object_digest(&output.child(&part.path)).await?;
        Ok((found.as_ref() != Some(wanted)).then(|| match found {
            Some(found) => format!("{record}: its part {} has another content: SHA-256 {found}", part.path),
            None => format!("{record}: its part {} is missing", part.path),
        }))
    });
    compared.buffer_unordered(AT_ONCE).try_filter_map(|one| std::future::ready(Ok(one))).try_collect().await
}

async fn inputs_of(
    stores: &mut Stores,
    last: &LastRun,
    output: &Location,
    survey: &OutputScan,
) -> anyhow::Result<Split> {
    let with_inputs = last.with_inputs(output).await?;
    let last = with_inputs.context("no run that ended here had inputs of its own; `recaption finalize OUT --input URL` looks for what is missing")?;
    let config = RunConfig::build(&last.layers()?)?;
    Ok(list_inputs(stores, &config, output, survey).await?)
}

/// Lists the inputs of a configuration; long lists are split without a note in the output. Lists with a record stay whole.
///
/// # Errors
/// Returns an error when they cannot be listed.
pub(crate) async fn list_inputs(
    stores: &mut Stores,
    config: &RunConfig,
    output: &Location,
    scan: &OutputScan,
) -> Result<Split, ListError> {
    let shards = list_shards(stores, &config.input.shards, config.input.read.format).await?;
    let is_done = |shard: &ShardRef| {
        let input = shard.fingerprint();
        scan.records_of(&shard.url).iter().any(|standing| standing.is_valid() && standing.name.input == input)
    };
    let splitter = Splitter { settings: &config.input.read, output, can_write: false };
    splitter.split(shards, is_done).await
}

/// Reads all failure records, in the order of their shards.
///
/// # Errors
/// Returns an error when they cannot be listed or read.
pub(crate) async fn read_failures(commit_log: &CommitLog) -> Result<Vec<FailureRecord>, StoreError> {
    let mut failed: Vec<FailureRecord> = stream::iter(commit_log.failures().await?)
        .map(|shard| async move { commit_log.failure_of(&shard).await })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|record| std::future::ready(Ok(record)))
        .try_collect()
        .await?;
    failed.sort_by(|a, b| a.shard.cmp(&b.shard));
    Ok(failed)
}

/// Where the samples went, and shards that could be read only in part.
fn count(survey: &OutputScan) -> (Counts, Vec<String>) {
    let (mut counts, mut damaged) = (Counts::default(), Vec::new());
    for facts in survey.records().filter_map(|(_, standing)| standing.summary.as_ref()) {
        counts.add(&facts.counts);
        if let Some(damage) = &facts.damaged {
            damaged.push(format!("{}: {}", facts.shard, damage.detail));
        }
    }
    damaged.sort();
    (counts, damaged)
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = &self.counts;
        writeln!(f, "output    {}", self.output)?;
        writeln!(f, "last run  {}, ended {}", self.last_run, self.last_run_finished)?;
        let known = |n: Option<usize>| n.map_or("?".to_owned(), |n| n.to_string());
        writeln!(
            f,
            "shards    {} done, {} pending, {} changed since, {} failed, {} damaged",
            self.done,
            known(self.pending),
            known(self.changed),
            self.failed.len(),
            self.damaged.len()
        )?;
        writeln!(f, "samples   {} read = {} captioned + {} rejected", c.read, c.captioned, c.rejected)?;
        for (reason, n) in &c.reasons {
            writeln!(f, "          {n:>8} {reason}")?;
        }
        write!(f, "{}", c.input)?;
        for shard in &self.damaged {
            writeln!(f, "damaged   {shard}")?;
        }
        for what in &self.invalid {
            writeln!(f, "invalid   {what}")?;
        }
        if self.has_invalid() {
            writeln!(f, "note      invalid shards are processed again by the next `recaption run`")?;
        } else if self.verified {
            writeln!(f, "verified  every part was read and matches its record")?;
        }
        if self.unclaimed > 0 {
            writeln!(
                f,
                "note      {} parts belong to no record: a run is in progress, or died",
                self.unclaimed
            )?;
        }
        for record in &self.failed {
            writeln!(f, "failed    {} (attempts: {})", record.error, record.attempts)?;
        }
        if let Some(orphaned) = self.orphaned.filter(|n| *n > 0) {
            writeln!(f, "note      {orphaned} shards are no longer among the inputs")?;
        }
        if let Some(why) = &self.inputs_unknown {
            writeln!(f, "note      the inputs cannot be listed: {why}")?;
        }
        Ok(())
    }
}
