//! The dataset that a second pass reads: its shards by their commit records.

use std::collections::BTreeMap;

use arrow_array::{Array, Float32Array};
use recaption_schemas::PartInfo;

use super::{PartReader, Score, SelectError};
use crate::commits::{CommitLog, RecordName, Standing};
use recaption_store::Location;

/// One shard of the source.
#[derive(Clone, Debug)]
pub struct SourceShard {
    /// Its path-safe name.
    pub id: String,
    /// The name in its record's file name, which versions before 0.2 gave otherwise.
    pub file: String,
    /// Its URL.
    pub url: String,
    /// Its commit record.
    pub name: RecordName,
    /// Its captions part, as recorded.
    pub captions: PartInfo,
}

/// A finished output. Never written to.
#[derive(Clone)]
pub struct Source {
    /// Where it is.
    pub location: Location,
    /// Its records.
    pub commit_log: CommitLog,
    /// Its shards, by name.
    pub shards: Vec<SourceShard>,
    /// The configuration that its rows were made with.
    pub configuration: BTreeMap<String, String>,
    /// Shards that failed and have no rows.
    pub failed: usize,
}

impl Source {
    /// Lists the shards that have a commit record; others do not exist.
    ///
    /// # Errors
    /// No records at all; rows of several configurations, whose scores cannot be compared; a shard that a run is about to
    /// replace.
    pub async fn open(location: Location) -> Result<Self, SelectError> {
        let commit_log = CommitLog::new(location.clone());
        let failed = |what: &str| SelectError::Source { source_url: location.url(), what: what.to_owned() };
        let mut survey = commit_log.survey().await?;
        let mut whole: Vec<(String, Standing)> = Vec::new();
        let mut unusable = 0;
        for (id, of_shard) in survey.take_records() {
            let (usable, broken): (Vec<_>, Vec<_>) =
                of_shard.into_iter().partition(|standing| standing.facts.is_some());
            for standing in broken {
                unusable += 1;
                let (record, fault) = (location.child(&standing.path()).url(), standing.fault);
                tracing::warn!(
                    record,
                    fault,
                    "a record cannot be used; its shard is left out until a run did it again"
                );
            }
            let mut usable = usable.into_iter();
            if let Some(standing) = usable.next() {
                whole.push((id.clone(), standing));
            }
            if usable.next().is_some() {
                return Err(failed(&format!(
                    "shard {id} has several commit records: a run ended while it was replacing it. Run the job again first"
                )));
            }
        }
        whole.sort_by(|a, b| a.0.cmp(&b.0));
        let Some((id, first)) = whole.first() else {
            return Err(failed("no commit records here: this is no finished output of `recaption run`"));
        };
        if let Some((other, _)) = whole.iter().find(|(_, s)| s.name.configuration != first.name.configuration)
        {
            return Err(failed(&format!(
                "shards {id} and {other} were made with different configurations, so their scores do not compare. Run the job again first"
            )));
        }
        let configuration = commit_log.read(&first.file, &first.name).await?.configuration;
        let mut shards = Vec::with_capacity(whole.len());
        for (id, Standing { file, name, facts, fault, .. }) in whole {
            if let Some(fault) = fault {
                return Err(failed(&format!("shard {id}: {fault}. Run the job again first")));
            }
            let Some(facts) = facts else { continue };
            shards.push(SourceShard { id, file, url: facts.shard, name, captions: facts.captions });
        }
        let failed = commit_log.failures().await?.len() + unusable;
        Ok(Self { location, commit_log, shards, configuration, failed })
    }

    /// Opens a shard's captions part; `columns` as [`PartReader::open`].
    ///
    /// # Errors
    /// As [`PartReader::open`].
    pub async fn captions(
        &self,
        shard: &SourceShard,
        columns: Option<&[&str]>,
    ) -> Result<PartReader, SelectError> {
        PartReader::open(self.location.child(&shard.captions.path), &shard.captions, columns).await
    }

    /// Reads one column of one shard and hands every row's score to `take`.
    ///
    /// # Errors
    /// As [`PartReader`]; a score that is not a number.
    pub async fn scores(
        &self,
        shard: &SourceShard,
        by: Score,
        mut take: impl FnMut(Option<f32>),
    ) -> Result<(), SelectError> {
        let mut part = self.captions(shard, Some(&[by.as_str()])).await?;
        let place = self.location.child(&shard.captions.path);
        while let Some(batch) = part.next().await? {
            let scores = scores_of(batch.column_by_name(by.as_str()), by, &place)?;
            scores.iter().for_each(&mut take);
        }
        Ok(())
    }
}

/// The column of scores, all of them numbers.
pub(super) fn scores_of<'a>(
    column: Option<&'a std::sync::Arc<dyn Array>>,
    by: Score,
    part: &Location,
) -> Result<&'a Float32Array, SelectError> {
    let failed = |what: String| SelectError::Part { part: part.url(), what };
    let scores: Option<&Float32Array> = column.and_then(|column| column.as_any().downcast_ref());
    let scores = scores.ok_or_else(|| failed(format!("column `{}` is not of type float", by.as_str())))?;
    match scores.iter().position(|score| score.is_some_and(f32::is_nan)) {
        Some(row) => Err(failed(format!("`{}` of row {row} of a batch is not a number", by.as_str()))),
        None => Ok(scores),
    }
}
