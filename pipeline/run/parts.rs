//! The parts of one open shard: tables, and a webdataset where the output has one.
//!
//! In a retry, rows that stay are copied from the shard's earlier parts, in between those that are new.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use recaption_output::{PartReader, PartTarget, PartWriter, ReadPartError, WriteError, layout::WEBDATASET};
use recaption_schemas::{Counts, Damage, PartInfo, caption_schema, reject_schema};
use tokio::sync::mpsc;

use super::{
    output::Output,
    task::Task,
    webdataset_part::{WebdatasetError, WebdatasetPart},
};

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
pub(super) enum PartError {
    /// It cannot be encoded or uploaded.
    Write(WriteError),
    /// A part of an earlier run cannot be read.
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
pub(super) struct Parts {
    captions: Part,
    rejects: Part,
    webdataset: Option<WebdatasetPart>,
    /// The schema of the captions part: rows may carry images that it does not have.
    schema: SchemaRef,
}

impl Parts {
    pub(super) async fn open(output: &Output, task: &Task) -> Result<Self, PartError> {
        let metadata = output.metadata();
        let fingerprint = task.name.fingerprint();
        let begin = |table, schema| {
            let (shard, fingerprint) = (task.shard.id.as_str(), fingerprint.as_str());
            let target = PartTarget { output: &output.location, table, shard, fingerprint };
            PartWriter::new(target, schema).map_err(PartError::Write)
        };
        let schema = Arc::new(caption_schema(output.part_columns(), metadata.clone()));
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
    pub(super) async fn fill(
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

    /// Completes all parts and makes them visible. After an error some may be: nothing is deleted here, because parts are named by
    /// their content and the record of another attempt may name an equal one. The next run removes parts that no record names.
    pub(super) async fn finish(self) -> Result<(PartInfo, PartInfo, Option<PartInfo>), WriteError> {
        let Self { captions, rejects, webdataset, .. } = self;
        let captions = match captions.writer.finish().await {
            Ok(part) => part.info(),
            Err(error) => {
                rejects.writer.abort().await;
                if let Some(part) = webdataset {
                    part.abort().await;
                }
                return Err(error);
            }
        };
        let rejects = match rejects.writer.finish().await {
            Ok(part) => part.info(),
            Err(error) => {
                if let Some(part) = webdataset {
                    part.abort().await;
                }
                return Err(error);
            }
        };
        let webdataset = match webdataset {
            Some(part) => Some(part.finish().await?.info()),
            None => None,
        };
        Ok((captions, rejects, webdataset))
    }

    /// Aborts the uploads; nothing becomes visible.
    pub(super) async fn abort(self) {
        self.captions.writer.abort().await;
        self.rejects.writer.abort().await;
        if let Some(webdataset) = self.webdataset {
            webdataset.abort().await;
        }
    }
}
