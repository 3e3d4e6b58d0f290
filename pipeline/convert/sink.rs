//! Samples -> one file of the dataset, or one folder.

use arrow_schema::SchemaRef;
use recaption_output::webdataset::{WebdatasetSample, WebdatasetWriter};
use recaption_store::Location;

use super::{
    columns::ParquetSink,
    folder::FolderSink,
    job::{ConvertJob, TargetFormat},
    plan::PlannedFile,
    record::WrittenFile,
    samples::Sample,
};

/// A file or folder being written.
pub(super) enum Sink {
    /// A tar.
    Webdataset(Box<WebdatasetWriter>),
    /// A Parquet file.
    Parquet(Box<ParquetSink>),
    /// A folder.
    Folder(Box<FolderSink>),
}

impl Sink {
    /// Starts a file. `schema` is that of the source's rows.
    ///
    /// # Errors
    /// When the columns cannot be written.
    pub(super) fn open(
        job: &ConvertJob,
        target: &Location,
        file: PlannedFile,
        schema: &SchemaRef,
    ) -> anyhow::Result<Self> {
        let number = file.number;
        Ok(match job.format {
            TargetFormat::Webdataset => {
                let path = format!("{number:06}.tar");
                Self::Webdataset(Box::new(WebdatasetWriter::at(target, &path)))
            }
            TargetFormat::Parquet => {
                let path = format!("{number:06}.parquet");
                Self::Parquet(Box::new(ParquetSink::open(job, target, &path, schema)?))
            }
            TargetFormat::Hf => Self::Folder(Box::new(FolderSink::image_folder(target, number)?)),
            TargetFormat::Sidecar => Self::Folder(Box::new(FolderSink::sidecars(job, target))),
        })
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// When it cannot be written. The file is then lost and never visible.
    pub(super) async fn push(&mut self, sample: Sample) -> anyhow::Result<()> {
        match self {
            Self::Webdataset(writer) => {
                let Sample { row, image, key, text, .. } = &sample;
                let (rows, row) = (&row.batch.rows, row.row);
                Ok(writer.push(&WebdatasetSample { key, image, text, rows, row }).await?)
            }
            Self::Parquet(sink) => sink.push(sample).await,
            Self::Folder(sink) => sink.push(sample).await,
        }
    }

    /// Completes the file and makes it visible.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) async fn finish(self) -> anyhow::Result<WrittenFile> {
        match self {
            Self::Webdataset(writer) => Ok(writer.finish().await?.into()),
            Self::Parquet(sink) => sink.finish().await,
            Self::Folder(sink) => sink.finish().await,
        }
    }

    /// Aborts the file.
    pub(super) async fn abort(self) {
        match self {
            Self::Webdataset(writer) => writer.abort().await,
            Self::Parquet(sink) => sink.abort().await,
            Self::Folder(_) => {}
        }
    }
}
