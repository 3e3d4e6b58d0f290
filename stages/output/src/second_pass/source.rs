//! The dataset that a second pass reads: its shards by their commit records.

use std::{collections::BTreeMap, sync::Arc};

use arrow_array::{Array, Float32Array};
use recaption_schemas::PartInfo;
use recaption_store::Location;

use super::{error::SecondPassError, selection::ScoreColumn};
use crate::{
    commits::{CommitLog, ExistingRecord, RecordContent, RecordName},
    part_reader::{PartReader, ReadPartError},
};

/// One shard of the source.
#[derive(Clone, Debug)]
pub struct SourceShard {
    /// Its name in the output.
    pub id: String,
    /// Its name in the record's file name, which differs in outputs of versions before 0.2.
    pub file: String,
    /// Its URL.
    pub url: String,
    /// The fingerprints in its commit record's name.
    pub name: RecordName,
    /// Its captions part, as recorded.
    pub captions: PartInfo,
}

/// A finished output. It is never written to.
#[derive(Clone, Debug)]
pub struct SourceDataset {
    /// Its location.
    pub location: Location,
    /// Its records.
    pub commit_log: CommitLog,
    /// Its shards, by name.
    pub shards: Vec<SourceShard>,
    /// The configuration that its rows were made with.
    pub configuration: BTreeMap<String, String>,
    /// Number of shards that failed and have no rows.
    pub failed: usize,
}

impl SourceDataset {
    /// Lists the shards that have a commit record; others do not exist.
    ///
    /// # Errors
    /// Returns an error for an output without records, rows of several configurations, whose scores cannot be compared, and
    /// a shard that a run is about to replace.
    pub async fn open(location: Location) -> Result<Self, SecondPassError> {
        let commit_log = CommitLog::new(location.clone());
        let failed = |what: String| SecondPassError::Dataset { url: location.url(), what };
        let (records, unusable) = usable_records(&location, &commit_log).await?;
        let Some((id, first)) = records.first() else {
            return Err(failed("no commit records: not the output of a finished `recaption run`".to_owned()));
        };
        let differs = |record: &ExistingRecord| record.name.configuration != first.name.configuration;
        if let Some((other, _)) = records.iter().find(|(_, record)| differs(record)) {
            return Err(failed(format!(
                "shards {id} and {other} were made with different configurations, so their scores cannot be compared; run the \
                 job again first"
            )));
        }
        let configuration = commit_log.read(&first.file, &first.name).await?.configuration;
        let mut shards = Vec::with_capacity(records.len());
        for (id, record) in records {
            let RecordContent { file, name, summary, problem, .. } = record.into_content();
            if let Some(problem) = problem {
                return Err(failed(format!("shard {id}: {problem}; run the job again first")));
            }
            let Some(summary) = summary else { continue };
            shards.push(SourceShard { id, file, url: summary.shard, name, captions: summary.captions });
        }
        let failed = commit_log.failures().await?.len() + unusable;
        Ok(Self { location, commit_log, shards, configuration, failed })
    }

    /// Opens a shard's captions part. For `columns` see [`PartReader::open`].
    ///
    /// # Errors
    /// Returns the errors of [`PartReader::open`].
    pub async fn captions(
        &self,
        shard: &SourceShard,
        columns: Option<&[&str]>,
    ) -> Result<PartReader, ReadPartError> {
        PartReader::open(self.location.child(&shard.captions.path), &shard.captions, columns).await
    }

    /// Reads one column of one shard and passes every row's score to `take`.
    ///
    /// # Errors
    /// Returns the errors of [`PartReader`], and an error for a score that is NaN.
    pub async fn scores(
        &self,
        shard: &SourceShard,
        by: ScoreColumn,
        mut take: impl FnMut(Option<f32>),
    ) -> Result<(), ReadPartError> {
        let mut part = self.captions(shard, Some(&[by.as_str()])).await?;
        let location = self.location.child(&shard.captions.path);
        while let Some(batch) = part.next().await? {
            let scores = scores_of(batch.column_by_name(by.as_str()), by, &location)?;
            scores.iter().for_each(&mut take);
        }
        Ok(())
    }
}

/// Returns the usable records by shard, and the number of the others, which are logged.
async fn usable_records(
    location: &Location,
    commit_log: &CommitLog,
) -> Result<(Vec<(String, ExistingRecord)>, usize), SecondPassError> {
    let mut scan = commit_log.scan().await?;
    let (mut all, mut unusable) = (Vec::new(), 0);
    for (id, records) in scan.take_records() {
        let (usable, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.summary.is_some());
        for record in others {
            unusable += 1;
            let (url, problem) = (location.child(&record.path()).url(), &record.problem);
            tracing::warn!(
                record = url,
                problem,
                "unusable commit record; skipping its shard until a run repairs it"
            );
        }
        let mut usable = usable.into_iter();
        if let Some(record) = usable.next() {
            all.push((id.clone(), record));
        }
        if usable.next().is_some() {
            let what = format!(
                "shard {id} has several commit records: a run ended while it replaced one; run the job again first"
            );
            return Err(SecondPassError::Dataset { url: location.url(), what });
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((all, unusable))
}

/// Returns the column of scores, none of them NaN.
pub(super) fn scores_of<'a>(
    column: Option<&'a Arc<dyn Array>>,
    by: ScoreColumn,
    part: &Location,
) -> Result<&'a Float32Array, ReadPartError> {
    let failed = |what: String| ReadPartError::invalid(part, &what);
    let scores: Option<&Float32Array> = column.and_then(|column| column.as_any().downcast_ref());
    let scores = scores.ok_or_else(|| failed(format!("column `{}` is not of type float", by.as_str())))?;
    match scores.iter().position(|score| score.is_some_and(f32::is_nan)) {
        Some(row) => Err(failed(format!("`{}` of row {row} of a batch is not a number", by.as_str()))),
        None => Ok(scores),
    }
}
