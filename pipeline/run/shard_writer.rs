//! Rows -> parts -> commit: the task of one open shard. It encodes, uploads, and in the end commits.
//!
//! In a retry, rows that stay are copied from the shard's earlier parts, in between those that are new.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use recaption_messages::ReadError;
use recaption_output::{
    PartReader, PartTarget, PartWriter, ReadPartError, WriteError,
    commits::{CommitError, CommitRequest, CommitResult},
    layout::WEBDATASET,
};
use recaption_schemas::{
    COMMIT_FORMAT, Counts, Damage, FailureClass, PartInfo, RejectReason, ShardCommit, caption_schema,
    redact_text, reject_schema,
};
use recaption_store::{ErrorKind, StoreError};
use tokio::sync::mpsc;

use super::output::Output;
use super::plan::{Settings, Task, differences};
use super::webdataset_part::{WebdatasetError, WebdatasetPart};

/// Why a shard failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShardFailure {
    /// Data or transport.
    pub class: FailureClass,
    /// What happened.
    pub error: String,
    /// Whether another attempt in this run may succeed.
    pub is_retryable: bool,
    /// Whether every other shard would fail the same way: the output is full, or rejects writes.
    pub ends_run: bool,
    /// Where the output has another configuration by now: the keys that differ.
    pub mismatch: Option<String>,
}

impl ShardFailure {
    /// An output that does not take what is written.
    fn of_output(shard: &str, fault: ErrorKind, error: &dyn std::fmt::Display) -> Self {
        Self {
            class: FailureClass::Transport,
            error: redact_text(&format!("shard {shard}: {error}")),
            is_retryable: fault.is_retryable(),
            ends_run: matches!(fault, ErrorKind::Full | ErrorKind::Permanent),
            mismatch: None,
        }
    }

    /// A shard that was abandoned, because it failed elsewhere or the run stops.
    fn abandoned() -> Self {
        Self {
            class: FailureClass::Transport,
            error: String::new(),
            is_retryable: false,
            ends_run: false,
            mismatch: None,
        }
    }

    /// A shard that could not be read.
    pub(super) fn of_input(error: &ReadError) -> Self {
        Self {
            class: error.class,
            error: error.to_string(),
            is_retryable: error.is_retryable,
            ends_run: false,
            mismatch: None,
        }
    }
}

/// How a shard was committed.
pub(super) enum ShardOutcome {
    /// By this worker.
    Committed {
        /// Its record.
        commit: Box<ShardCommit>,
        /// Whether its record was new.
        committed: CommitResult,
    },
    /// By another worker, before this one began it.
    CommittedByOther,
    /// By another worker, while this one processed it too.
    ProcessedTwice,
}

/// How a shard ended.
pub(super) struct ShardResult {
    /// Number within the run.
    pub shard: usize,
    /// Its commit record, or why there is none.
    pub outcome: Result<ShardOutcome, ShardFailure>,
}

/// A table of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// `captions/`.
    Captions,
    /// `rejects/`.
    Rejects,
}

/// To a shard's own task.
pub(super) enum ToPart {
    /// New rows.
    Rows(Table, RecordBatch),
    /// The earlier part's next rows stay.
    Keep(Table, u64),
    /// The earlier part's next row goes.
    Drop(Table),
    /// All rows were sent.
    End(Counts, Option<Damage>),
}

/// One part under construction, with the earlier one where there is one.
struct Part {
    writer: PartWriter,
    earlier: Option<Earlier>,
}

/// The rows of an earlier part that were not looked at.
struct Earlier {
    reader: PartReader,
    rest: Option<RecordBatch>,
}

/// Why a part is not written.
enum PartError {
    Write(WriteError),
    Earlier(ReadPartError),
}

impl From<WebdatasetError> for PartError {
    fn from(error: WebdatasetError) -> Self {
        match error {
            WebdatasetError::Write(error) => Self::Write(error),
            WebdatasetError::Read(error) => Self::Earlier(error),
        }
    }
}

impl Part {
    async fn write(&mut self, rows: RecordBatch) -> Result<(), PartError> {
        self.writer.write(rows).await.map_err(PartError::Write)
    }

    /// Copies or skips the next rows of the earlier part.
    async fn copy(&mut self, mut rows: u64, keep: bool) -> Result<(), PartError> {
        let Some(earlier) = &mut self.earlier else { return Ok(()) };
        while rows > 0 {
            let batch = match earlier.rest.take() {
                Some(batch) => batch,
                None => match earlier.reader.next().await.map_err(PartError::Earlier)? {
                    Some(batch) => batch,
                    None => return Ok(()),
                },
            };
            let now = usize::try_from(rows).unwrap_or(usize::MAX).min(batch.num_rows());
            rows -= now as u64;
            if now < batch.num_rows() {
                earlier.rest = Some(batch.slice(now, batch.num_rows() - now));
            }
            if keep {
                self.writer.write(batch.slice(0, now)).await.map_err(PartError::Write)?;
            }
        }
        Ok(())
    }
}

/// All parts of a shard.
struct Parts {
    captions: Part,
    rejects: Part,
    webdataset: Option<WebdatasetPart>,
    /// The schema of the captions part: rows may carry images that it does not have.
    schema: SchemaRef,
}

impl Parts {
    async fn open(output: &Output, task: &Task) -> Result<Self, PartError> {
        let metadata = output.metadata();
        let fingerprint = task.name.fingerprint();
        let begin = |table, schema| {
            let (shard, fingerprint) = (task.shard.id.as_str(), fingerprint.as_str());
            let target = PartTarget { output: &output.location, table, shard, fingerprint };
            PartWriter::new(target, schema).map_err(PartError::Write)
        };
        let schema = Arc::new(caption_schema(output.embed, metadata.clone()));
        let captions = begin("captions", Arc::clone(&schema))?;
        let rejects = begin("rejects", Arc::new(reject_schema(metadata)))?;
        let earlier = async |info: Option<&PartInfo>| {
            let Some(info) = info else { return Ok(None) };
            let reader = PartReader::open(output.location.child(&info.path), info, None).await;
            reader.map(|reader| Some(Earlier { reader, rest: None })).map_err(PartError::Earlier)
        };
        let keep = task.keep.as_ref().map(|keep| &keep.commit);
        let webdataset = if output.webdataset {
            let (shard, fingerprint) = (task.shard.id.as_str(), fingerprint.as_str());
            let target = PartTarget { output: &output.location, table: WEBDATASET, shard, fingerprint };
            Some(WebdatasetPart::open(target, keep.and_then(|commit| commit.webdataset.as_ref())).await?)
        } else {
            None
        };
        Ok(Self {
            webdataset,
            schema,
            captions: Part { writer: captions, earlier: earlier(keep.map(|commit| &commit.captions)).await? },
            rejects: Part { writer: rejects, earlier: earlier(keep.map(|commit| &commit.rejects)).await? },
        })
    }

    fn of(&mut self, table: Table) -> &mut Part {
        match table {
            Table::Captions => &mut self.captions,
            Table::Rejects => &mut self.rejects,
        }
    }

    /// Writes all rows; `None` when the shard is abandoned.
    async fn fill(
        &mut self,
        batches: &mut mpsc::Receiver<ToPart>,
    ) -> Result<Option<(Counts, Option<Damage>)>, PartError> {
        loop {
            match batches.recv().await {
                Some(ToPart::Rows(table, batch)) => self.write(table, batch).await?,
                Some(ToPart::Keep(table, rows)) => self.keep(table, rows).await?,
                Some(ToPart::Drop(table)) => self.of(table).copy(1, false).await?,
                Some(ToPart::End(counts, damage)) => return Ok(Some((counts, damage))),
                None => return Ok(None),
            }
        }
    }

    /// Writes new rows.
    async fn write(&mut self, table: Table, batch: RecordBatch) -> Result<(), PartError> {
        let mut batch = batch;
        if table == Table::Captions
            && let Some(webdataset) = &mut self.webdataset
        {
            webdataset.write(&batch).await?;
            // The image is the last column, and the captions part may be without it.
            let columns = batch.columns().iter().take(self.schema.fields().len()).cloned().collect();
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns);
            batch = rows.map_err(|e| {
                let what = format!("internal error: {e}");
                PartError::Earlier(ReadPartError::Invalid { part: "captions".to_owned(), what })
            })?;
        }
        self.of(table).write(batch).await
    }

    /// Copies the next rows of an earlier part.
    async fn keep(&mut self, table: Table, rows: u64) -> Result<(), PartError> {
        if table == Table::Captions
            && let Some(webdataset) = &mut self.webdataset
        {
            webdataset.keep(rows).await?;
        }
        self.of(table).copy(rows, true).await
    }

    /// Completes all parts and makes them visible. After an error none is.
    async fn finish(self, output: &Output) -> Result<(PartInfo, PartInfo, Option<PartInfo>), WriteError> {
        let mut visible = Vec::new();
        let finished = async {
            let captions = self.captions.writer.finish().await?.info();
            visible.push(captions.path.clone());
            let rejects = self.rejects.writer.finish().await?.info();
            visible.push(rejects.path.clone());
            let webdataset = match self.webdataset {
                Some(part) => Some(part.finish().await?.info()),
                None => None,
            };
            Ok((captions, rejects, webdataset))
        };
        let finished = finished.await;
        if finished.is_err() {
            // A part of a shard must not stay. What cannot be removed now is removed by the next run.
            for path in visible {
                let _ = output.location.child(&path).delete().await;
            }
        }
        finished
    }

    /// Aborts the uploads; nothing becomes visible.
    async fn abort(self) {
        self.captions.writer.abort().await;
        self.rejects.writer.abort().await;
        if let Some(webdataset) = self.webdataset {
            webdataset.abort().await;
        }
    }
}

/// Writes one shard: uploads both parts, makes them visible, commits, and deletes what is obsolete.
pub(super) async fn write_shard(
    output: &Output,
    task: &Task,
    mut batches: mpsc::Receiver<ToPart>,
) -> Result<ShardOutcome, ShardFailure> {
    let url = &task.shard.url;
    let _open = output.meter.open();
    let unwritten = |e: PartError| match e {
        PartError::Write(e) => ShardFailure::of_output(url, e.kind(), &e),
        PartError::Earlier(e) => ShardFailure::of_output(url, ErrorKind::Exhausted, &e),
    };
    let mut parts = Parts::open(output, task).await.map_err(unwritten)?;
    match parts.fill(&mut batches).await {
        Ok(Some((counts, damaged))) => finish(output, task, parts, counts, damaged).await,
        Ok(None) => {
            parts.abort().await;
            Err(ShardFailure::abandoned())
        }
        Err(error) => {
            parts.abort().await;
            Err(unwritten(error))
        }
    }
}

/// All rows are there: the output is this configuration's still, the parts become visible, the record is put.
async fn finish(
    output: &Output,
    task: &Task,
    parts: Parts,
    counts: Counts,
    damaged: Option<Damage>,
) -> Result<ShardOutcome, ShardFailure> {
    let (url, id) = (&task.shard.url, &task.shard.id);
    let committing = output.meter.commit();
    let unwritten = |e: WriteError| ShardFailure::of_output(url, e.kind(), &e);
    let begun = match output.committer.begin().await {
        Ok(begun) => begun,
        Err(error) => {
            parts.abort().await;
            return Err(refused(output, url, error));
        }
    };
    let (captions, rejects, webdataset) = parts.finish(output).await.map_err(unwritten)?;
    let samples = webdataset.as_ref().map_or(counts.captioned, |part| part.rows);
    let is_complete = [captions.rows, samples] == [counts.captioned; 2] && rejects.rows == counts.rejected;
    if !counts.balanced() || !is_complete {
        let what = format!(
            "internal error: row counts do not match: {counts:?}, {captions:?}, {rejects:?}, {webdataset:?}"
        );
        return Err(ShardFailure::of_output(url, ErrorKind::Exhausted, &what));
    }
    let commit = ShardCommit {
        format: COMMIT_FORMAT,
        shard: url.clone(),
        size: task.shard.size(),
        etag: task.shard.tag(),
        fingerprint: task.name.fingerprint(),
        configuration: output.committer.configuration.clone(),
        model: output.model.clone(),
        settings: settings_of(output, &counts),
        counts,
        damaged,
        captions,
        rejects,
        webdataset,
    };
    let request = CommitRequest {
        shard: id.as_str(),
        commit: &commit,
        replaces: task.replaces.as_ref(),
        previous: task.keep.as_ref().filter(|_| task.replaces.is_some()).map(|keep| &*keep.commit),
        stale_records: &task.stale_records,
        orphaned_parts: &task.orphaned_parts,
    };
    let committed = output.committer.commit(&request, begun).await;
    Ok(match committed.map_err(|e| refused(output, url, e))? {
        CommitResult::CommittedByOther => ShardOutcome::ProcessedTwice,
        committed => {
            committing.done(commit.captions.bytes + commit.rejects.bytes);
            ShardOutcome::Committed { commit: Box::new(commit), committed }
        }
    })
}

/// The settings that may be why samples of this shard were rejected.
fn settings_of(output: &Output, counts: &Counts) -> Settings {
    let reasons = RejectReason::ALL.iter().filter(|reason| counts.reasons.contains_key(reason.as_str()));
    let names = reasons.filter_map(|reason| reason.setting());
    let with_value = |(name, _): (&str, _)| Some((name.to_owned(), output.settings.get(name)?.clone()));
    names.filter_map(with_value).collect()
}

fn refused(output: &Output, url: &str, error: CommitError) -> ShardFailure {
    match error {
        CommitError::Store(e) => {
            // A record that cannot be read, or parts that somebody removed, are this shard's trouble alone.
            let fault = if matches!(e, StoreError::Record { .. }) { ErrorKind::Exhausted } else { e.kind() };
            ShardFailure::of_output(url, fault, &e)
        }
        CommitError::ConfigurationMismatch(claim) => {
            let differences = differences(&claim.configuration, &output.committer.configuration);
            let failure =
                ShardFailure::of_output(url, ErrorKind::Permanent, &"the output has another configuration");
            ShardFailure { mismatch: Some(differences), ..failure }
        }
    }
}
