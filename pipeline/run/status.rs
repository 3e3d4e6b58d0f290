//! What an output holds and lacks: commit records, failures, and the inputs of its last run.

use std::collections::HashSet;

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt, stream};
use recaption_stages::{
    commits::{Ledger, Records, list_below, read_json},
    read::{Leftover, Split, Splitter},
    schemas::{Counts, FailureRecord},
    shards::{ShardRef, list_shards},
    store::{Location, Stores},
};
use serde::{Deserialize, Serialize};

use super::record::Typed;
use crate::config::{Layers, RunConfig};

/// Records read at the same time.
const CONCURRENCY: usize = 64;

/// What the last run left behind, as far as another one needs it.
#[derive(Clone, Debug, Deserialize)]
pub struct LastRun {
    /// Its id.
    pub run: String,
    /// When it ended, RFC 3339.
    pub finished: String,
    /// Where it was started.
    #[serde(default)]
    pub directory: String,
    /// What was typed, without secrets.
    pub typed: Typed,
}

impl LastRun {
    /// The latest record of an output.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub async fn of(output: &Location) -> anyhow::Result<Self> {
        let runs = list_below(&output.child("_recaption/runs")).await?;
        let latest =
            runs.into_iter().filter(|place| place.path.as_ref().ends_with(".json")).max_by(|a, b| {
                // Names begin with the time.
                a.path.filename().cmp(&b.path.filename())
            });
        let Some(place) = latest else {
            bail!("{} is no output of `recaption run`: it has no record of a run", output.url());
        };
        read_json(&place).await?.with_context(|| format!("{} is gone", place.url()))
    }

    /// What was typed, as a layer that others may replace.
    ///
    /// # Errors
    /// Keys that this version does not know.
    pub fn layers(&self) -> anyhow::Result<Layers> {
        let mut layers = Layers::default();
        layers.add_described(&self.typed, &format!("run {}", self.run))?;
        Ok(layers)
    }
}

/// What an output holds and lacks.
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

/// Looks at an output; loads no model.
///
/// # Errors
/// When it is none, or cannot be read.
pub async fn status(stores: &mut Stores, output: &Location) -> anyhow::Result<Status> {
    let last = LastRun::of(output).await?;
    let ledger = Ledger::new(output.clone());
    let records = ledger.list().await?;
    let failed = read_failures(&ledger).await?;
    let (counts, mut damaged) = read_commits(&ledger, &records).await?;
    damaged.sort();
    let inputs = inputs_of(stores, &last, output, &records).await;
    let mut status = Status {
        output: output.url(),
        last_run: last.run,
        last_run_finished: last.finished,
        done: records.len(),
        damaged,
        pending: None,
        changed: None,
        inputs_unknown: None,
        orphaned: None,
        failed,
        counts,
    };
    match inputs {
        Ok(split) => status.compare(&records, &split),
        Err(error) => status.inputs_unknown = Some(format!("{error:#}")),
    }
    Ok(status)
}

impl Status {
    fn compare(&mut self, records: &Records, split: &Split) {
        let shards = &split.shards;
        // What failed and is no input any more is nobody's trouble.
        let urls: HashSet<&str> = shards.iter().map(|shard| shard.url.as_str()).collect();
        self.failed.retain(|record| urls.contains(record.shard.as_str()));
        let failed: HashSet<&str> = self.failed.iter().map(|record| record.shard.as_str()).collect();
        let (mut done, mut pending, mut changed) = (0, 0, 0);
        for shard in shards {
            let input = shard.fingerprint();
            match records.get(shard.id.as_str()) {
                Some(names) if names.iter().any(|name| name.input == input) => done += 1,
                _ if failed.contains(shard.url.as_str()) => {}
                Some(_) => changed += 1,
                None => pending += 1,
            }
        }
        let inputs: HashSet<&str> = shards.iter().map(|shard| shard.id.as_str()).collect();
        let orphaned = records.keys().filter(|shard| {
            !inputs.contains(shard.as_str()) && !matches!(split.leftover(shard), Some(Leftover::Unknown(_)))
        });
        let orphaned = orphaned.count();
        (self.done, self.pending, self.changed) = (done, Some(pending), Some(changed));
        self.orphaned = Some(orphaned);
    }
}

async fn inputs_of(
    stores: &mut Stores,
    last: &LastRun,
    output: &Location,
    records: &Records,
) -> anyhow::Result<Split> {
    let config = RunConfig::build(&last.layers()?)?;
    let shards = list_shards(stores, &config.shards, config.read.format).await?;
    let is_done = |shard: &ShardRef| {
        let input = shard.fingerprint();
        records.get(shard.id.as_str()).is_some_and(|names| names.iter().all(|name| name.input == input))
    };
    let splitter = Splitter { settings: &config.read, output, remember: false };
    Ok(splitter.split(shards, is_done).await?)
}

async fn read_failures(ledger: &Ledger) -> anyhow::Result<Vec<FailureRecord>> {
    let mut failed: Vec<FailureRecord> = stream::iter(ledger.failures().await?)
        .map(|shard| async move { ledger.failure_of(&shard).await })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|record| std::future::ready(Ok(record)))
        .try_collect()
        .await?;
    failed.sort_by(|a, b| a.shard.cmp(&b.shard));
    Ok(failed)
}

async fn read_commits(ledger: &Ledger, records: &Records) -> anyhow::Result<(Counts, Vec<String>)> {
    let names = records.iter().flat_map(|(shard, names)| names.iter().map(move |name| (shard, name)));
    let mut commits = stream::iter(names)
        .map(|(shard, name)| async move { ledger.find(shard, name).await })
        .buffer_unordered(CONCURRENCY);
    let (mut counts, mut damaged) = (Counts::default(), Vec::new());
    while let Some(commit) = commits.try_next().await? {
        let Some(commit) = commit else { continue };
        counts.add(&commit.counts);
        if let Some(damage) = commit.damaged {
            damaged.push(format!("{}: {}", commit.shard, damage.detail));
        }
    }
    Ok((counts, damaged))
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
        for record in &self.failed {
            writeln!(f, "failed    {} (attempts: {})", record.error, record.attempts)?;
        }
        if let Some(orphaned) = self.orphaned.filter(|n| *n > 0) {
            writeln!(f, "note      {orphaned} shards are not among the inputs any more")?;
        }
        if let Some(why) = &self.inputs_unknown {
            writeln!(f, "note      the inputs of the last run cannot be listed: {why}")?;
        }
        Ok(())
    }
}
