//! Rows with images -> the shard's webdataset part, beside its tables.
//!
//! In a retry, samples that stay are copied from the shard's earlier part.

use arrow_array::RecordBatch;
use recaption_output::{
    CaptionRows, PartTarget, ReadPartError, WriteError, WrittenPart,
    webdataset::{WebdatasetReader, WebdatasetSample, WebdatasetWriter, sample_key},
};
use recaption_schemas::PartInfo;
use recaption_store::Location;

/// A webdataset part under construction, with the earlier one where there is one.
pub(super) struct WebdatasetPart {
    writer: WebdatasetWriter,
    earlier: Option<WebdatasetReader>,
    output: Location,
    shard: String,
}

/// Why a webdataset part is not written.
pub(super) enum WebdatasetError {
    /// The part cannot be uploaded.
    Write(WriteError),
    /// The earlier part cannot be read, or a row lacks what it needs.
    Read(ReadPartError),
}

impl WebdatasetPart {
    /// Starts a part. `earlier` is the part whose samples may stay.
    ///
    /// # Errors
    /// When the earlier part cannot be opened.
    pub(super) async fn open(
        target: PartTarget<'_>,
        earlier: Option<&PartInfo>,
    ) -> Result<Self, WebdatasetError> {
        let earlier = match earlier {
            Some(part) => {
                Some(WebdatasetReader::open(target.output, part).await.map_err(WebdatasetError::Read)?)
            }
            None => None,
        };
        let (output, shard) = (target.output.clone(), target.shard.to_owned());
        Ok(Self { writer: WebdatasetWriter::new(target), earlier, output, shard })
    }

    /// Writes the samples of rows that carry their images.
    ///
    /// # Errors
    /// When the upload fails.
    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<(), WebdatasetError> {
        let rows = CaptionRows::of(batch).map_err(|e| self.defect(&e))?;
        for row in 0..rows.rows() {
            let image =
                rows.image(row).ok_or_else(|| self.defect(&"internal error: a row without its image"))?;
            let key = sample_key(&self.shard, rows.key(row));
            let text = rows.text(row).unwrap_or_else(|| rows.caption(row));
            let sample = WebdatasetSample { key: &key, image: &image, text, rows: &rows, row };
            self.writer.push(&sample).await.map_err(WebdatasetError::Write)?;
        }
        Ok(())
    }

    /// Copies the next samples of the earlier part.
    ///
    /// # Errors
    /// When the earlier part cannot be read, or the upload fails.
    pub(super) async fn keep(&mut self, samples: u64) -> Result<(), WebdatasetError> {
        let Some(earlier) = &mut self.earlier else { return Ok(()) };
        let copied = self.writer.copy(earlier, samples).await.map_err(WebdatasetError::Read)?;
        copied.map_err(WebdatasetError::Write)
    }

    /// Completes the part and makes it visible.
    ///
    /// # Errors
    /// When the upload fails.
    pub(super) async fn finish(self) -> Result<WrittenPart, WriteError> {
        self.writer.finish().await
    }

    /// Aborts the upload.
    pub(super) async fn abort(self) {
        self.writer.abort().await;
    }

    fn defect(&self, what: &dyn std::fmt::Display) -> WebdatasetError {
        let part = format!("{}/webdataset of {}", self.output.url(), self.shard);
        WebdatasetError::Read(ReadPartError::Invalid { part, what: what.to_string() })
    }
}
