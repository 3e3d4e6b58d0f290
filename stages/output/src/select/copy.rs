//! One shard's parts into the new dataset: kept rows to `captions/`, the others to `rejects/`, then the commit record.

use std::sync::Arc;

use arrow_array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use recaption_schemas::{PartInfo, Reject, RejectReason, RejectTable, ShardCommit, metadata_keys};

use super::{PartReader, SelectError, Selection, Source, SourceShard, source::scores_of};
use crate::{
    commits::{Attempt, CommitError, CommitResult, Committer, RecordName, Seen, Standing},
    write::{PartPlace, PartWriter},
};
use recaption_store::Location;

/// Uncompressed bytes of rejects gathered before they go to the encoder.
const BATCH_BYTES: usize = 4 << 20;

/// What all shards of a second pass have in common.
pub struct CopyJob {
    /// The dataset that is read.
    pub source: Source,
    /// The dataset that is written.
    pub output: Location,
    /// Commits its shards; knows the new dataset's configuration, which is the source's and the selection.
    pub committer: Committer,
    /// Which rows stay.
    pub selection: Selection,
    /// All selections that led here as JSON, for the parts' metadata.
    pub passes: String,
}

/// What became of one shard's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows of the source's captions part.
    pub read: u64,
    /// Rows that were selected.
    pub selected: u64,
    /// Rows without the score, among those not selected.
    pub missing: u64,
}

impl Copied {
    /// Adds another shard's.
    pub fn add(&mut self, other: Self) {
        self.read += other.read;
        self.selected += other.selected;
        self.missing += other.missing;
    }
}

/// One shard to be copied.
pub struct CopyTask {
    /// The shard.
    pub shard: SourceShard,
    /// The name of its new commit record.
    pub name: RecordName,
    /// What stands in that record's place and does not hold.
    pub expects: Option<Standing>,
    /// Records in the new dataset that no longer hold.
    pub stale: Vec<Standing>,
    /// Parts in the new dataset that nobody needs.
    pub orphans: Vec<Seen>,
}

/// Copies one shard. Both parts are uploaded invisibly, become visible, and the commit record is written last; then what
/// does not hold any more is removed.
///
/// # Errors
/// When a part cannot be read or written; nothing of the shard is then visible, or it has no record.
pub async fn copy_shard(job: &CopyJob, task: &CopyTask) -> Result<Copied, SelectError> {
    let shard = &task.shard;
    let old = job.source.commit_log.read(&shard.file, &shard.name).await?;
    let captions = job.source.captions(shard, None).await?;
    let rejects_at = job.source.location.child(&old.rejects.path);
    let rejects = PartReader::open(rejects_at, &old.rejects, None).await?;
    let fingerprint = task.name.fingerprint();
    let mut writers = Writers::begin((job, &shard.id, &fingerprint), &captions, &rejects, &old)?;
    let copied = match writers.copy(job, &old, captions, rejects).await {
        Ok(copied) => copied,
        Err(error) => {
            writers.abort().await;
            return Err(error);
        }
    };
    let begun = match job.committer.begin().await {
        Ok(begun) => begun,
        Err(error) => {
            writers.abort().await;
            return Err(refused(job, error));
        }
    };
    let (captions, rejects) = writers.finish().await?;
    let mut counts = old.counts.clone();
    let left_out = counts.captioned - captions.rows;
    (counts.captioned, counts.rejected) = (captions.rows, counts.rejected + left_out);
    if left_out > 0 {
        *counts.reasons.entry(RejectReason::BelowSimilarity.as_str().to_owned()).or_default() += left_out;
    }
    if !counts.balanced() || counts.rejected != rejects.rows {
        let what = format!("the accounts do not balance: {counts:?}, {captions:?}, {rejects:?}");
        return Err(SelectError::Part { part: job.output.child(&captions.path).url(), what });
    }
    let configuration = job.committer.configuration.clone();
    let commit = ShardCommit { fingerprint, configuration, counts, captions, rejects, ..old };
    let attempt = Attempt {
        shard: &shard.id,
        commit: &commit,
        expects: task.expects.as_ref(),
        former: None,
        stale: &task.stale,
        orphans: &task.orphans,
    };
    let committed = job.committer.commit(&attempt, begun).await.map_err(|e| refused(job, e))?;
    if committed == CommitResult::CommittedByOther {
        let what = format!("another pass copied shard {} otherwise; run the same command again", shard.id);
        return Err(SelectError::Source { source_url: job.output.url(), what });
    }
    Ok(copied)
}

fn refused(job: &CopyJob, error: CommitError) -> SelectError {
    match error {
        CommitError::Store(error) => error.into(),
        CommitError::Other(_) => {
            let what = "another pass or run is making a dataset of another configuration there; choose another place";
            SelectError::Source { source_url: job.output.url(), what: what.to_owned() }
        }
    }
}

/// A shard's two new parts.
struct Writers {
    captions: PartWriter,
    rejects: PartWriter,
    schema: SchemaRef,
    /// Rows that are left out, until there are enough for a batch.
    left_out: RejectTable,
    rejects_schema: SchemaRef,
}

impl Writers {
    fn begin(
        (job, shard, fingerprint): (&CopyJob, &str, &str),
        captions: &PartReader,
        rejects: &PartReader,
        old: &ShardCommit,
    ) -> Result<Self, SelectError> {
        let schema = Arc::new(with_passes(&captions.schema(), &job.passes, job.selection.column.as_deref()));
        let rejects_schema = Arc::new(with_passes(&rejects.schema(), &job.passes, None));
        let part = |table, schema: &SchemaRef| {
            let place = PartPlace { output: &job.output, table, shard, fingerprint };
            PartWriter::new(place, Arc::clone(schema))
        };
        Ok(Self {
            captions: part("captions", &schema)?,
            rejects: part("rejects", &rejects_schema)?,
            left_out: RejectTable::new(Arc::clone(&rejects_schema), old.shard.clone()),
            schema,
            rejects_schema,
        })
    }

    /// The source's rejects first, in their order; then the rows that are left out now, in theirs.
    async fn copy(
        &mut self,
        job: &CopyJob,
        old: &ShardCommit,
        mut captions: PartReader,
        mut rejects: PartReader,
    ) -> Result<Copied, SelectError> {
        while let Some(batch) = rejects.next().await? {
            let columns = batch.columns().to_vec();
            let batch = RecordBatch::try_new(Arc::clone(&self.rejects_schema), columns);
            self.rejects.write(batch.map_err(|e| misfit(job, &old.rejects, &e))?).await?;
        }
        let mut copied = Copied::default();
        while let Some(batch) = captions.next().await? {
            let selected = self.select(job, old, &batch, &mut copied)?;
            let rows = self.kept(job, &batch, selected).map_err(|e| misfit(job, &old.captions, &e))?;
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
        Ok(copied)
    }

    /// Which rows of a batch are selected; the others are noted as rejects, unless all rows stay.
    fn select(
        &mut self,
        job: &CopyJob,
        old: &ShardCommit,
        batch: &RecordBatch,
        copied: &mut Copied,
    ) -> Result<BooleanArray, SelectError> {
        let selection = &job.selection;
        let place = job.source.location.child(&old.captions.path);
        let scores = scores_of(batch.column_by_name(selection.by.as_str()), selection.by, &place)?;
        let selected: Vec<bool> = scores.iter().map(|score| selection.keeps(score)).collect();
        copied.read += selected.len() as u64;
        copied.selected += selected.iter().filter(|selected| **selected).count() as u64;
        copied.missing += scores.null_count() as u64;
        if selection.column.is_none() {
            let rows = Rows::of(batch).map_err(|e| misfit(job, &old.captions, &e))?;
            for (row, _) in selected.iter().enumerate().filter(|(_, selected)| !**selected) {
                let score = scores.is_valid(row).then(|| scores.value(row));
                self.left_out.push(&rows.reject(row, selection.left_out(score)));
            }
        }
        Ok(selected.into())
    }

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

    async fn flush(&mut self, job: &CopyJob, old: &ShardCommit) -> Result<(), SelectError> {
        let batch = self.left_out.finish().map_err(|e| misfit(job, &old.rejects, &e))?;
        Ok(self.rejects.write(batch).await?)
    }

    async fn finish(self) -> Result<(PartInfo, PartInfo), SelectError> {
        let captions = self.captions.finish().await?.info();
        Ok((captions, self.rejects.finish().await?.info()))
    }

    async fn abort(self) {
        self.captions.abort().await;
        self.rejects.abort().await;
    }
}

/// The columns of a captions part that a reject repeats.
struct Rows<'a> {
    key: &'a StringArray,
    caption: &'a StringArray,
    similarity: &'a arrow_array::Float32Array,
    org_caption: &'a StringArray,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, ArrowError> {
        fn column<'a, T: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a T, ArrowError> {
            let column = batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref());
            column.ok_or_else(|| {
                ArrowError::SchemaError(format!("no column `{name}` of the type it should have"))
            })
        }
        Ok(Self {
            key: column(batch, "key")?,
            caption: column(batch, "caption")?,
            similarity: column(batch, "similarity")?,
            org_caption: column(batch, "org_caption")?,
        })
    }

    fn reject(&self, row: usize, detail: String) -> Reject {
        let original = self.org_caption.is_valid(row).then(|| self.org_caption.value(row).to_owned());
        Reject {
            key: self.key.value(row).to_owned(),
            reason: RejectReason::BelowSimilarity,
            detail,
            caption: Some(self.caption.value(row).to_owned()),
            similarity: Some(self.similarity.value(row)),
            org_caption: original,
        }
    }
}

/// The part's own schema and metadata, the selections in it, and the column that marks rows.
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

/// Hugging Face `datasets` wants every column described once one is.
fn with_feature(features: &str, name: &str) -> String {
    let Ok(mut parsed) = serde_json::from_str::<serde_json::Value>(features) else {
        return features.to_owned();
    };
    parsed["info"]["features"][name] = serde_json::json!({"dtype": "bool", "_type": "Value"});
    parsed.to_string()
}

fn misfit(job: &CopyJob, part: &PartInfo, error: &ArrowError) -> SelectError {
    SelectError::Part { part: job.source.location.child(&part.path).url(), what: error.to_string() }
}
