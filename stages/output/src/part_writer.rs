//! `CaptionRow | Reject -> Parquet part`: one file per shard and table, uploaded as it grows, visible only when complete.
//!
//! Encoding runs on tokio's blocking threads; uploads are async. A row group is closed before it reaches
//! [`ROW_GROUP_BYTES`], so memory is bounded whatever the size of a shard.

use std::{collections::BTreeMap, io, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use bytes::Bytes;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use recaption_store::Location;

use crate::{
    object_writer::{ObjectWriter, PartTarget, WrittenPart},
    write_error::WriteError,
};

/// Uncompressed bytes after which a row group is closed. The output schema promises less than 100 MB.
pub const ROW_GROUP_BYTES: usize = 64 << 20;
/// Compression level of zstd: the fastest of the usual ones; captions are small beside images.
const ZSTD_LEVEL: i32 = 3;
/// Size of the chunks that the encoder's output is divided into. A single buffer would be reallocated to twice its size again
/// and again by a row group with images, and be freed only after its last byte is sent.
const CHUNK_BYTES: usize = 1 << 20;

/// A part being written.
pub struct PartWriter {
    object: ObjectWriter,
    encoder: Option<ArrowWriter<ChunkBuffer>>,
    /// Uncompressed bytes in the open row group. The encoder's own counts are of compressed pages.
    group_bytes: usize,
    rows: u64,
}

impl PartWriter {
    /// Starts a part at `target`.
    ///
    /// # Errors
    /// Returns an error when the schema cannot be written as Parquet.
    pub fn new(target: PartTarget<'_>, schema: Arc<Schema>) -> Result<Self, WriteError> {
        Self::over(ObjectWriter::part(target), schema)
    }

    /// Starts the Parquet file at `path` below `output`. An existing one is replaced when the new one is complete.
    ///
    /// # Errors
    /// Returns an error when the schema cannot be written as Parquet.
    pub fn at(output: &Location, path: &str, schema: Arc<Schema>) -> Result<Self, WriteError> {
        Self::over(ObjectWriter::at(output, path), schema)
    }

    fn over(object: ObjectWriter, schema: Arc<Schema>) -> Result<Self, WriteError> {
        let encode = |source| WriteError::Encode { part: object.url(), source };
        let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(encode)?;
        // Arrow's own copy of the metadata is hidden inside its schema; readers look here. Sorted: equal runs, equal bytes.
        let sorted: BTreeMap<_, _> = schema.metadata().iter().collect();
        let metadata = sorted.into_iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone())).collect();
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(metadata))
            .set_compression(Compression::ZSTD(level))
            // The version tells which program wrote the file; a time or host would make equal runs unequal.
            .set_created_by(concat!("recaption ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let encoder =
            ArrowWriter::try_new(ChunkBuffer::default(), schema, Some(properties)).map_err(encode)?;
        Ok(Self { object, encoder: Some(encoder), group_bytes: 0, rows: 0 })
    }

    /// Appends rows.
    ///
    /// # Errors
    /// Returns an error when encoding or uploading fails. The part is then lost and never visible.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<(), WriteError> {
        self.rows += batch.num_rows() as u64;
        let bytes = uncompressed_bytes(&batch);
        let full = self.group_bytes > 0 && self.group_bytes + bytes > ROW_GROUP_BYTES;
        self.group_bytes = if full { bytes } else { self.group_bytes + bytes };
        let chunks = self
            .encode(move |encoder| {
                if full {
                    encoder.flush()?;
                }
                encoder.write(&batch)?;
                Ok(encoder.inner_mut().take())
            })
            .await?;
        self.object.send(chunks).await
    }

    /// Completes the part and makes it visible.
    ///
    /// # Errors
    /// Returns an error when encoding or uploading fails.
    pub async fn finish(mut self) -> Result<WrittenPart, WriteError> {
        let rest = self
            .encode(|encoder| {
                encoder.finish()?;
                Ok(encoder.inner_mut().take())
            })
            .await?;
        self.object.send(rest).await?;
        self.object.finish(self.rows).await
    }

    /// Aborts the part: nothing of it becomes visible.
    pub async fn abort(self) {
        self.object.abort().await;
    }

    async fn encode(
        &mut self,
        work: impl FnOnce(&mut ArrowWriter<ChunkBuffer>) -> Result<Vec<Bytes>, ParquetError> + Send + 'static,
    ) -> Result<Vec<Bytes>, WriteError> {
        let part = self.object.url();
        let failed = |source| WriteError::Encode { part: part.clone(), source };
        let mut encoder = self
            .encoder
            .take()
            .ok_or_else(|| failed(ParquetError::General("the part failed before".into())))?;
        let (encoder, result) = tokio::task::spawn_blocking(move || {
            let result = work(&mut encoder);
            (encoder, result)
        })
        .await
        .map_err(|e| failed(ParquetError::General(e.to_string())))?;
        self.encoder = Some(encoder);
        result.map_err(failed)
    }
}

impl std::fmt::Debug for PartWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartWriter")
            .field("part", &self.object.url())
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// The encoder's output, in chunks.
#[derive(Default)]
struct ChunkBuffer {
    complete: Vec<Bytes>,
    open: Vec<u8>,
}

impl ChunkBuffer {
    fn close(&mut self) {
        if !self.open.is_empty() {
            self.complete.push(std::mem::take(&mut self.open).into());
        }
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.close();
        std::mem::take(&mut self.complete)
    }
}

impl io::Write for ChunkBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.len() + bytes.len() > CHUNK_BYTES {
            self.close();
        }
        self.open.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the bytes of a batch's values, without unused capacity of its buffers.
fn uncompressed_bytes(batch: &RecordBatch) -> usize {
    let slices = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size());
    slices.sum::<Result<usize, _>>().unwrap_or_else(|_| batch.get_array_memory_size())
}
