//! Reads a part's rows from any store, a row group at a time.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::{
    DecodeResult,
    arrow::{
        ProjectionMask,
        arrow_reader::RowSelection,
        push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder},
    },
    errors::ParquetError,
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder},
};
use recaption_schemas::PartInfo;
use recaption_store::{Location, StoreError};

/// Rows decoded together. With images a row group has fewer, and its size is bounded in bytes.
const BATCH_ROWS: usize = 1024;
/// Bytes at a part's end that the first request reads: footer and metadata of all but very large parts.
const FOOTER_BYTES: u64 = 64 << 10;

/// Why a part cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadPartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The part does not match its commit record, or is not such a Parquet file.
    #[error("{part}: {what}")]
    Invalid {
        /// The part's URL.
        part: String,
        /// What is wrong, in one line.
        what: String,
    },
}

impl ReadPartError {
    /// Returns the error of a part that does not have the expected content.
    pub(crate) fn invalid(location: &Location, what: &dyn std::fmt::Display) -> Self {
        Self::Invalid { part: location.url(), what: what.to_string() }
    }

    fn of_store(location: &Location, source: object_store::Error) -> Self {
        Self::Store(StoreError::Store { url: location.url(), source })
    }
}

/// Top-level columns to read, which come in the part's order.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// Columns that the part must have.
    pub required: &'a [&'a str],
    /// Columns that only some runs write: read where the part has them.
    pub added: &'a [&'a str],
}

/// Reads one part. Decoding runs on tokio's blocking threads.
pub struct PartReader {
    location: Location,
    decoder: Option<ParquetPushDecoder>,
    schema: SchemaRef,
    /// Rows that the part must have by its commit record.
    expected: u64,
    read: u64,
}

impl PartReader {
    /// Opens the part at `location` that a commit record describes. `columns` are the top-level columns to read, in the
    /// part's order; `None` reads all.
    ///
    /// # Errors
    /// Returns an error when the part does not exist, is not Parquet, has another number of rows than recorded, or lacks
    /// a column.
    pub async fn open(
        location: Location,
        recorded: &PartInfo,
        columns: Option<&[&str]>,
    ) -> Result<Self, ReadPartError> {
        Self::open_columns(location, recorded, columns.map(|required| Columns { required, added: &[] })).await
    }

    /// Opens a part as [`PartReader::open`] does, with columns that it may lack.
    ///
    /// # Errors
    /// As [`PartReader::open`].
    pub async fn open_columns(
        location: Location,
        recorded: &PartInfo,
        columns: Option<Columns<'_>>,
    ) -> Result<Self, ReadPartError> {
        let mut builder = builder(&location, recorded, PageIndexPolicy::Skip).await?;
        let failed = |e: &dyn std::fmt::Display| ReadPartError::invalid(&location, e);
        let schema = Arc::clone(builder.schema());
        if let Some(Columns { required, added }) = columns {
            let has = |name: &&str| schema.index_of(name).is_ok();
            if let Some(name) = required.iter().find(|name| !has(name)) {
                let why = match *name {
                    "org_itm" => "which a run with `score.match_original = true` adds",
                    _ => "so it is not a captions part",
                };
                return Err(failed(&format!("it has no column `{name}`, {why}")));
            }
            let names = required.iter().copied().chain(added.iter().copied().filter(has));
            let mask = ProjectionMask::columns(builder.parquet_schema(), names);
            builder = builder.with_projection(mask);
        }
        let decoder = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| failed(&e))?;
        Ok(Self { location, decoder: Some(decoder), schema, expected: recorded.rows, read: 0 })
    }

    /// Opens some rows of a part, by their positions in ascending order. Reads those of the `columns` that the part has, and
    /// of these the pages that hold the rows.
    ///
    /// # Errors
    /// Returns an error when the part does not exist, is not Parquet, or has another number of rows than recorded.
    pub async fn open_rows(
        location: Location,
        recorded: &PartInfo,
        columns: &[&str],
        rows: &[u64],
    ) -> Result<Self, ReadPartError> {
        let builder = builder(&location, recorded, PageIndexPolicy::Optional).await?;
        let failed = |e: &dyn std::fmt::Display| ReadPartError::invalid(&location, e);
        let schema = Arc::clone(builder.schema());
        let known = columns.iter().copied().filter(|name| schema.index_of(name).is_ok());
        let mask = ProjectionMask::columns(builder.parquet_schema(), known);
        let count = usize::try_from(recorded.rows).map_err(|e| failed(&e))?;
        let rows: Vec<usize> =
            rows.iter().filter_map(|row| usize::try_from(*row).ok()).filter(|row| *row < count).collect();
        let selection = RowSelection::from_consecutive_ranges(rows.iter().map(|row| *row..row + 1), count);
        let decoder = builder.with_projection(mask).with_row_selection(selection);
        let decoder = decoder.with_batch_size(BATCH_ROWS).build().map_err(|e| failed(&e))?;
        Ok(Self { location, decoder: Some(decoder), schema, expected: rows.len() as u64, read: 0 })
    }

    /// Returns the part's schema with all columns and the file's metadata.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Returns the next rows, `None` after the last.
    ///
    /// # Errors
    /// Returns an error when the store fails, the bytes cannot be decoded, or rows are missing at the end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, ReadPartError> {
        while let Some(mut decoder) = self.decoder.take() {
            let (decoder, decoded) = tokio::task::spawn_blocking(move || {
                let decoded = decoder.try_decode();
                (decoder, decoded)
            })
            .await
            .map_err(|e| ReadPartError::invalid(&self.location, &e))?;
            match decoded.map_err(|e| ReadPartError::invalid(&self.location, &e))? {
                DecodeResult::Data(batch) => {
                    self.decoder = Some(decoder);
                    self.read += batch.num_rows() as u64;
                    return Ok(Some(batch));
                }
                DecodeResult::NeedsData(ranges) => {
                    let data = self.location.store.get_ranges(&self.location.path, &ranges).await;
                    let data = data.map_err(|source| ReadPartError::of_store(&self.location, source))?;
                    let mut decoder = decoder;
                    let pushed = decoder.push_ranges(ranges, data);
                    pushed.map_err(|e| ReadPartError::invalid(&self.location, &e))?;
                    self.decoder = Some(decoder);
                }
                DecodeResult::Finished => {}
            }
        }
        if self.read == self.expected {
            return Ok(None);
        }
        let what = format!("it ends after {} of {} rows", self.read, self.expected);
        Err(ReadPartError::invalid(&self.location, &what))
    }
}

impl std::fmt::Debug for PartReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartReader")
            .field("part", &self.location)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

/// Reads a part's metadata, which must have the recorded number of rows.
async fn builder(
    location: &Location,
    recorded: &PartInfo,
    pages: PageIndexPolicy,
) -> Result<ParquetPushDecoderBuilder, ReadPartError> {
    let metadata = metadata(location, recorded.bytes, pages).await?;
    let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    if rows != recorded.rows {
        let what = format!(
            "it has {rows} rows instead of {}; if a run writes to this output, try again when it has ended",
            recorded.rows
        );
        return Err(ReadPartError::invalid(location, &what));
    }
    ParquetPushDecoderBuilder::try_new_decoder(Arc::new(metadata))
        .map_err(|e| ReadPartError::invalid(location, &e))
}

async fn metadata(
    location: &Location,
    bytes: u64,
    pages: PageIndexPolicy,
) -> Result<ParquetMetaData, ReadPartError> {
    let failed = |e: ParquetError| ReadPartError::invalid(location, &e);
    let decoder = ParquetMetaDataPushDecoder::try_new(bytes).map_err(failed)?;
    let mut decoder = decoder.with_page_index_policy(pages);
    let footer = bytes.saturating_sub(FOOTER_BYTES)..bytes;
    let mut ranges = vec![footer];
    loop {
        let data: Vec<Bytes> = location
            .store
            .get_ranges(&location.path, &ranges)
            .await
            .map_err(|source| ReadPartError::of_store(location, source))?;
        decoder.push_ranges(ranges, data).map_err(failed)?;
        match decoder.try_decode().map_err(failed)? {
            DecodeResult::Data(metadata) => return Ok(metadata),
            DecodeResult::NeedsData(more) => ranges = more,
            DecodeResult::Finished => {
                return Err(ReadPartError::invalid(location, &"its metadata is incomplete"));
            }
        }
    }
}
