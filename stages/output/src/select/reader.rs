//! A part's rows from any store, a row group at a time.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::{
    DecodeResult,
    arrow::{
        ProjectionMask,
        push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder},
    },
    errors::ParquetError,
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder},
};
use recaption_schemas::PartInfo;

use super::SelectError;
use recaption_store::{Location, StoreError};

/// Rows decoded together. With images a row group has fewer, and its size is bounded in bytes.
const BATCH_ROWS: usize = 1024;
/// Bytes at a part's end that are asked for at once: footer and metadata of all but very large parts.
const FOOTER_BYTES: u64 = 64 << 10;

/// Reads one part. Decoding runs on tokio's blocking threads.
pub struct PartReader {
    location: Location,
    decoder: Option<ParquetPushDecoder>,
    schema: SchemaRef,
    /// Rows that the part must have by its commit record.
    wanted: u64,
    read: u64,
}

impl PartReader {
    /// Opens the part at `location`, which a commit record describes. `columns` are the top-level columns to read, in the
    /// part's order; `None` reads all.
    ///
    /// # Errors
    /// When the part is gone, is no Parquet, has another number of rows than recorded, or lacks a column.
    pub async fn open(
        location: Location,
        recorded: &PartInfo,
        columns: Option<&[&str]>,
    ) -> Result<Self, SelectError> {
        let metadata = metadata(&location, recorded.bytes).await?;
        let failed = |e: &dyn std::fmt::Display| broken(&location, e);
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        if rows != recorded.rows {
            let what = format!(
                "it holds {rows} rows, its commit record says {}; is a run writing there? Try again when it has ended",
                recorded.rows
            );
            return Err(failed(&what));
        }
        let mut builder =
            ParquetPushDecoderBuilder::try_new_decoder(Arc::new(metadata)).map_err(|e| failed(&e))?;
        let schema = Arc::clone(builder.schema());
        if let Some(columns) = columns {
            if let Some(name) = columns.iter().find(|name| schema.index_of(name).is_err()) {
                return Err(failed(&format!("no column `{name}`: this is no captions part")));
            }
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            builder = builder.with_projection(mask);
        }
        let decoder = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| failed(&e))?;
        Ok(Self { location, decoder: Some(decoder), schema, wanted: rows, read: 0 })
    }

    /// The part's schema with all columns, and the file's metadata in it.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The next rows; `None` when there are no more.
    ///
    /// # Errors
    /// When the store fails or the bytes cannot be decoded.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, SelectError> {
        while let Some(mut decoder) = self.decoder.take() {
            let (decoder, decoded) = tokio::task::spawn_blocking(move || {
                let decoded = decoder.try_decode();
                (decoder, decoded)
            })
            .await
            .map_err(|e| broken(&self.location, &e))?;
            match decoded.map_err(|e| broken(&self.location, &e))? {
                DecodeResult::Data(batch) => {
                    self.decoder = Some(decoder);
                    self.read += batch.num_rows() as u64;
                    return Ok(Some(batch));
                }
                DecodeResult::NeedsData(ranges) => {
                    let data = self.location.store.get_ranges(&self.location.path, &ranges).await;
                    let data = data.map_err(|source| unread(&self.location, source))?;
                    let mut decoder = decoder;
                    decoder.push_ranges(ranges, data).map_err(|e| broken(&self.location, &e))?;
                    self.decoder = Some(decoder);
                }
                DecodeResult::Finished => {}
            }
        }
        if self.read == self.wanted {
            return Ok(None);
        }
        Err(broken(&self.location, &format!("{} of {} rows could be read", self.read, self.wanted)))
    }
}

async fn metadata(location: &Location, bytes: u64) -> Result<ParquetMetaData, SelectError> {
    let failed = |e: ParquetError| broken(location, &e);
    let decoder = ParquetMetaDataPushDecoder::try_new(bytes).map_err(failed)?;
    let mut decoder = decoder.with_page_index_policy(PageIndexPolicy::Skip);
    let footer = bytes.saturating_sub(FOOTER_BYTES)..bytes;
    let mut ranges = vec![footer];
    loop {
        let data: Vec<Bytes> = location
            .store
            .get_ranges(&location.path, &ranges)
            .await
            .map_err(|source| unread(location, source))?;
        decoder.push_ranges(ranges, data).map_err(failed)?;
        match decoder.try_decode().map_err(failed)? {
            DecodeResult::Data(metadata) => return Ok(metadata),
            DecodeResult::NeedsData(more) => ranges = more,
            DecodeResult::Finished => return Err(broken(location, &"the metadata ended early")),
        }
    }
}

fn broken(location: &Location, what: &dyn std::fmt::Display) -> SelectError {
    SelectError::Part { part: location.url(), what: what.to_string() }
}

fn unread(location: &Location, source: object_store::Error) -> SelectError {
    SelectError::Store(StoreError::Store { url: location.url(), source })
}
