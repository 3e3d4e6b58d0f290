//! Copies one shard's parts to the new dataset: kept rows to `captions/`, the others to `rejects/`, then the commit record.

use std::sync::Arc;

use arrow_array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use recaption_schemas::{PartInfo, Reject, RejectReason, RejectTable, ShardCommit, metadata_keys};

use recaption_store::Location;

use super::{
    error::SecondPassError,
    selection::Selection,
    source::{SourceDataset, SourceShard, scores_of},
};
use crate::{
    commits::{
        CommitError, CommitRequest, CommitResult, Committer, ExistingPart, ExistingRecord, RecordName,
    },
    object_writer::PartTarget,
    part_reader::{PartReader, ReadPartError},
    part_writer::PartWriter,
};

/// Uncompressed bytes of rejects that are collected for a batch.
const BATCH_BYTES: usize = 4 << 20;

/// What all shards of a second pass share.
#[derive(Debug)]
pub struct CopyJob {
    /// The dataset that is read.
    pub source: SourceDataset,
    /// The dataset that is written.
    pub output: Location,
    /// Commits its shards. Its configuration is the source's and the selection.
    pub committer: Committer,
    /// Which rows are kept.
    pub selection: Selection,
    /// All selections so far as JSON, for the parts' metadata.
    pub passes: String,
}

/// Counts of rows by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyCounts {
    /// Rows of the source's captions part.
    pub read: u64,
    /// Rows that were selected.
    pub selected: u64,
    /// Rows without a score, among those not selected.
    pub missing: u64,
}

impl CopyCounts {
    /// Adds the counts of another shard.
    pub fn add(&mut self, other: Self) {
        self.read += other.read;
        self.selected += other.selected;
        self.missing += other.missing;
    }
}

/// One shard to be copied.
#[derive(Debug)]
pub struct CopyTask {
    /// The shard.
    pub shard: SourceShard,
    /// The fingerprints in its new commit record's name.
    pub name: RecordName,
    /// The invalid record that the new one replaces.
    pub replaces: Option<ExistingRecord>,
    /// Other invalid records in the new dataset.
    pub stale_records: Vec<ExistingRecord>,
    /// Parts in the new dataset that no valid record names.
    pub orphaned_parts: Vec<ExistingPart>,
}

/// Copies one shard. Both parts are uploaded, become visible, and the commit record is written last; then stale records and
/// orphaned parts are deleted.
///
/// # Errors
/// Returns an error when a part cannot be read or written. Then nothing of the shard is visible, or it has no record.
pub async fn copy_shard(job: &CopyJob, task: &CopyTask) -> Result<CopyCounts, SecondPassError> {
    let shard = &task.shard;
    let old = job.source.commit_log.read(&shard.file, &shard.name).await?;
    let captions = job.source.captions(shard, None).await?;
    let rejects_at = job.source.location.child(&old.rejects.path);
    let rejects = PartReader::open(rejects_at, &old.rejects, None).await?;
    let fingerprint = task.name.fingerprint();
    let mut writers = ShardWriters::new((job, &shard.id, &fingerprint), &captions, &rejects, &old)?;
    let copied = match writers.copy(job, &old, captions, rejects).await {
        Ok(counts) => counts,
        Err(error) => {
            writers.abort().await;
            return Err(error);
        }
    };
    let start = match job.committer.begin().await {
        Ok(start) => start,
        Err(error) => {
            writers.abort().await;
            return Err(commit_error(job, error));
        }
    };
    let (captions, rejects) = writers.finish().await?;
    let mut counts = old.counts.clone();
    let left_out = counts.captioned - captions.rows;
    (counts.captioned, counts.rejected) = (captions.rows, counts.rejected + left_out);
    if left_out > 0 {
        *counts.reasons.entry(job.selection.by.reason().as_str().to_owned()).or_default() += left_out;
    }
    if !counts.balanced() || counts.rejected != rejects.rows {
        let what = format!("internal error: row counts do not match: {counts:?}, {captions:?}, {rejects:?}");
        return Err(ReadPartError::invalid(&job.output.child(&captions.path), &what).into());
    }
    let configuration = job.committer.configuration.clone();
    // Only the tables are copied.
    let commit =
        ShardCommit { fingerprint, configuration, counts, captions, rejects, webdataset: None, ..old };
    let request = CommitRequest {
        shard: &shard.id,
        commit: &commit,
        replaces: task.replaces.as_ref(),
        previous: None,
        stale_records: &task.stale_records,
        orphaned_parts: &task.orphaned_parts,
    };
    let result = job.committer.commit(&request, start).await.map_err(|e| commit_error(job, e))?;
    if result == CommitResult::CommittedByOther {
        let what =
            format!("another pass committed other rows of shard {}; run the same command again", shard.id);
        return Err(SecondPassError::Dataset { url: job.output.url(), what });
    }
    Ok(copied)
}

fn commit_error(job: &CopyJob, error: CommitError) -> SecondPassError {
    match error {
        CommitError::Store(error) => error.into(),
        CommitError::ConfigurationMismatch(_) => {
            let what =
                "another pass or run writes a dataset of another configuration there; choose another output";
            SecondPassError::Dataset { url: job.output.url(), what: what.to_owned() }
        }
    }
}

/// A shard's two new parts.
struct ShardWriters {
    captions: PartWriter,
    rejects: PartWriter,
    schema: SchemaRef,
    /// Rejected rows, until there are enough for a batch.
    left_out: RejectTable,
    rejects_schema: SchemaRef,
}

impl ShardWriters {
    fn new(
        (job, shard, fingerprint): (&CopyJob, &str, &str),
        captions: &PartReader,
        rejects: &PartReader,
        old: &ShardCommit,
    ) -> Result<Self, SecondPassError> {
        let schema = Arc::new(with_passes(&captions.schema(), &job.passes, job.selection.column.as_deref()));
        let rejects_schema = Arc::new(with_passes(&rejects.schema(), &job.passes, None));
        let part = |table, schema: &SchemaRef| {
            let target = PartTarget { output: &job.output, table, shard, fingerprint };
            PartWriter::new(target, Arc::clone(schema))
        };
        Ok(Self {
            captions: part("captions", &schema)?,
            rejects: part("rejects", &rejects_schema)?,
            left_out: RejectTable::new(Arc::clone(&rejects_schema), old.shard.clone()),
            schema,
            rejects_schema,
        })
    }

    /// Copies the source's rejects first, in their order; then those of the rows that are left out now, in theirs.
    async fn copy(
        &mut self,
        job: &CopyJob,
        old: &ShardCommit,
        mut captions: PartReader,
        mut rejects: PartReader,
    ) -> Result<CopyCounts, SecondPassError> {
        while let Some(batch) = rejects.next().await? {
            let columns = batch.columns().to_vec();
            let batch = RecordBatch::try_new(Arc::clone(&self.rejects_schema), columns);
            self.rejects.write(batch.map_err(|e| invalid(job, &old.rejects, &e))?).await?;
        }
        let mut counts = CopyCounts::default();
        while let Some(batch) = captions.next().await? {
            let selected = self.select(job, old, &batch, &mut counts)?;
            let rows = self.kept(job, &batch, selected).map_err(|e| invalid(job, &old.captions, &e))?;
            if rows.num_rows() > 0 {
                self.captions.write(rows).await?;
            }
            if self.left_out.bytes() >= BATCH_BYTES {
                self.flush(job, old).await?;
            }
        }
        if self.left_out.rows() > 0 {
            self.flush(job, old).await?;
        }
        Ok(counts)
    }

    /// Returns which rows of a batch are selected. The others become rejects, unless all rows are kept.
    fn select(
        &mut self,
        job: &CopyJob,
        old: &ShardCommit,
        batch: &RecordBatch,
        counts: &mut CopyCounts,
    ) -> Result<BooleanArray, SecondPassError> {
        let selection = &job.selection;
        let location = job.source.location.child(&old.captions.path);
        let scores = scores_of(batch.column_by_name(selection.by.as_str()), selection.by, &location)?;
        let selected: Vec<bool> = scores.iter().map(|score| selection.keeps(score)).collect();
        counts.read += selected.len() as u64;
        counts.selected += selected.iter().filter(|selected| **selected).count() as u64;
        counts.missing += scores.null_count() as u64;
        if selection.column.is_none() {
            let rows = RejectColumns::of(batch).map_err(|e| invalid(job, &old.captions, &e))?;
            for (row, _) in selected.iter().enumerate().filter(|(_, selected)| !**selected) {
                let score = scores.is_valid(row).then(|| scores.value(row));
                self.left_out.push(&rows.reject(row, selection.by.reason(), selection.reject_detail(score)));
            }
        }
        Ok(selected.into())
    }

    /// Returns the selected rows, or all rows with the column that marks them.
    fn kept(
        &self,
        job: &CopyJob,
        batch: &RecordBatch,
        selected: BooleanArray,
    ) -> Result<RecordBatch, ArrowError> {
        let mut columns = batch.columns().to_vec();
        if job.selection.column.is_some() {
            columns.push(Arc::new(selected));
            return RecordBatch::try_new(Arc::clone(&self.schema), columns);
        }
        filter_record_batch(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?, &selected)
    }

    async fn flush(&mut self, job: &CopyJob, old: &ShardCommit) -> Result<(), SecondPassError> {
        let batch = self.left_out.finish().map_err(|e| invalid(job, &old.rejects, &e))?;
        Ok(self.rejects.write(batch).await?)
    }

    async fn finish(self) -> Result<(PartInfo, PartInfo), SecondPassError> {
        let captions = self.captions.finish().await?.info();
        Ok((captions, self.rejects.finish().await?.info()))
    }

    async fn abort(self) {
        self.captions.abort().await;
        self.rejects.abort().await;
    }
}

/// The columns of a captions part that its rejects repeat.
struct RejectColumns<'a> {
    key: &'a StringArray,
    caption: &'a StringArray,
    similarity: &'a arrow_array::Float32Array,
    org_caption: &'a StringArray,
}

impl<'a> RejectColumns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, ArrowError> {
        fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T, ArrowError> {
            let column = batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref());
            column.ok_or_else(|| {
                ArrowError::SchemaError(format!("column `{name}` is missing or has another type"))
            })
        }
        Ok(Self {
            key: column(batch, "key")?,
            caption: column(batch, "caption")?,
            similarity: column(batch, "similarity")?,
            org_caption: column(batch, "org_caption")?,
        })
    }

    fn reject(&self, row: usize, reason: RejectReason, detail: String) -> Reject {
        let original = self.org_caption.is_valid(row).then(|| self.org_caption.value(row).to_owned());
        Reject::new(self.key.value(row), reason, detail)
            .with_caption(self.caption.value(row), Some(self.similarity.value(row)))
            .with_org_caption(original)
    }
}

/// Returns the part's schema with the selections in its metadata, and with the column that marks rows.
fn with_passes(schema: &Schema, passes: &str, column: Option<&str>) -> Schema {
    let mut metadata = schema.metadata().clone();
    metadata.insert(metadata_keys::FILTER.to_owned(), passes.to_owned());
    let mut fields = schema.fields().to_vec();
    if let Some(name) = column {
        fields.push(Arc::new(Field::new(name, DataType::Boolean, false)));
        if let Some(features) = metadata.get("huggingface").map(|features| with_feature(features, name)) {
            metadata.insert("huggingface".to_owned(), features);
        }
    }
    Schema::new_with_metadata(fields, metadata)
}

/// Adds a column to the description that Hugging Face `datasets` reads: it must have every column once it has one.
fn with_feature(features: &str, name: &str) -> String {
    let Ok(mut parsed) = serde_json::from_str::<serde_json::Value>(features) else {
        return features.to_owned();
    };
    parsed["info"]["features"][name] = serde_json::json!({"dtype": "bool", "_type": "Value"});
    parsed.to_string()
}

fn invalid(job: &CopyJob, part: &PartInfo, error: &ArrowError) -> ReadPartError {
    ReadPartError::invalid(&job.source.location.child(&part.path), error)
}
