//! The footer of a Parquet file, and ranges of its bytes.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange};
use parquet::{
    DecodeResult,
    arrow::{ProjectionMask, arrow_reader::ArrowReaderOptions, push_decoder::ParquetPushDecoderBuilder},
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder, RowGroupMetaData},
};
use recaption_messages::ReadError;

use super::columns::ColumnRoles;
use crate::read::{
    context::ReadContext,
    sniff::{self, SNIFF_BYTES},
};

/// Rows decoded together. With images of a megabyte these are tens of megabytes.
const BATCH_ROWS: usize = 32;
/// Most bytes of a batch's column, whose offsets are 32 bits.
const MAX_COLUMN_BYTES: i64 = i32::MAX as i64;
/// Most bytes of a batch whose values are in a dictionary.
const MAX_DICTIONARY_BATCH_BYTES: i64 = 256 << 20;
/// Bytes at the end of a file that are requested first: footer and metadata of all but very large files.
const FOOTER_BYTES: u64 = 64 << 10;
/// Ranges requested at the same time.
const CONCURRENT_REQUESTS: usize = 4;
/// Largest metadata, bytes.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// Largest row group, uncompressed bytes of the columns that are read. It is in memory, compressed, while it is decoded.
const MAX_GROUP_BYTES: i64 = 4 << 30;

/// A table with its metadata and the roles of its columns.
pub(super) struct OpenTable {
    pub(super) metadata: Arc<ParquetMetaData>,
    pub(super) roles: ColumnRoles,
    /// The columns that are read.
    pub(super) mask: ProjectionMask,
}

/// Creates the builder of a decoder.
pub(super) fn builder(metadata: &Arc<ParquetMetaData>) -> Result<ParquetPushDecoderBuilder, String> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ParquetPushDecoderBuilder::try_new_decoder_with_options(Arc::clone(metadata), options)
        .map_err(|e| format!("cannot read the Parquet file: {e}"))
}

/// Reads the footer, with the offsets of pages if they are wanted, and assigns the roles of the columns.
pub(super) async fn open(context: ReadContext<'_>, index: PageIndexPolicy) -> Result<OpenTable, ReadError> {
    let metadata = Arc::new(read_metadata(context, index).await?);
    let builder = builder(&metadata).map_err(|e| context.data_error(&e))?;
    let settings = context.settings;
    let roles = ColumnRoles::detect(builder.schema(), settings);
    let roles = roles.map_err(|e| context.data_error(&e))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), roles.roots());
    check_row_groups(context, &metadata, &mask)?;
    Ok(OpenTable { metadata, roles, mask })
}

/// Returns the row groups of a list of URLs; `None` if the table holds images.
pub(in crate::read) async fn row_groups_of_list(
    context: ReadContext<'_>,
) -> Result<Option<Vec<RowGroup>>, ReadError> {
    let table = open(context, PageIndexPolicy::Skip).await?;
    Ok((!table.roles.has_image()).then(|| table.row_groups().collect()))
}

impl OpenTable {
    fn row_groups(&self) -> impl Iterator<Item = RowGroup> {
        self.metadata.row_groups().iter().map(|group| {
            let columns = group.columns().iter().enumerate();
            let read = columns.filter(|(leaf, _)| self.mask.leaf_included(*leaf));
            let bytes = read.map(|(_, column)| u64::try_from(column.compressed_size()).unwrap_or(0));
            let bytes = bytes.fold(0, u64::saturating_add);
            RowGroup { rows: u64::try_from(group.num_rows()).unwrap_or(0), bytes }
        })
    }
}

/// Counts the rows of a table.
pub(in crate::read) async fn count_rows(context: ReadContext<'_>) -> Result<TableRows, ReadError> {
    let table = open(context, PageIndexPolicy::Skip).await?;
    Ok(TableRows {
        rows: table.row_groups().map(|group| group.rows).fold(0, u64::saturating_add),
        largest_group_bytes: table.row_groups().map(|group| group.bytes).max().unwrap_or(0),
        has_images: table.roles.has_image(),
    })
}

/// The rows of a table.
#[derive(Clone, Copy, Debug)]
pub(in crate::read) struct TableRows {
    /// Number of rows.
    pub(in crate::read) rows: u64,
    /// Compressed bytes of the largest row group, of the columns that are read.
    pub(in crate::read) largest_group_bytes: u64,
    /// Whether the rows hold images; otherwise they hold URLs.
    pub(in crate::read) has_images: bool,
}

/// A row group of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::read) struct RowGroup {
    /// Number of rows.
    pub(in crate::read) rows: u64,
    /// Compressed bytes of the columns that are read.
    pub(in crate::read) bytes: u64,
}

/// Returns the number of rows to decode together. It is 1 if a column of a row group is so large that a few rows might overflow
/// a batch, and small if values are in a dictionary, where every row may be as large as the whole dictionary.
pub(super) fn batch_rows(metadata: &ParquetMetaData, mask: &ProjectionMask) -> usize {
    let rows = |group: &RowGroupMetaData| {
        let read = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let rows = read.map(|(_, column)| {
            let size = column.uncompressed_size();
            if size > MAX_COLUMN_BYTES {
                1
            } else if column.dictionary_page_offset().is_some() {
                usize::try_from(MAX_DICTIONARY_BATCH_BYTES / size.max(1)).unwrap_or(1).clamp(1, BATCH_ROWS)
            } else {
                BATCH_ROWS
            }
        });
        rows.min().unwrap_or(BATCH_ROWS)
    };
    metadata.row_groups().iter().map(rows).min().unwrap_or(BATCH_ROWS)
}

/// Rejects row groups that would not fit into memory.
fn check_row_groups(
    context: ReadContext<'_>,
    metadata: &ParquetMetaData,
    mask: &ProjectionMask,
) -> Result<(), ReadError> {
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        // A negative size is false, and would hide another.
        let size = |bytes: i64| if bytes < 0 { i64::MAX } else { bytes };
        let bytes =
            columns.fold(0_i64, |sum, (_, column)| sum.saturating_add(size(column.uncompressed_size())));
        if bytes > MAX_GROUP_BYTES {
            return Err(context.data_error(&format!(
                "row group {number} holds {bytes} bytes, more than {MAX_GROUP_BYTES}: rewrite the file with smaller row groups"
            )));
        }
    }
    Ok(())
}

/// Reads the metadata of the file.
async fn read_metadata(
    context: ReadContext<'_>,
    index: PageIndexPolicy,
) -> Result<ParquetMetaData, ReadError> {
    let size = context.shard.size();
    check_start(context).await?;
    let failed =
        |what: &dyn std::fmt::Display| context.data_error(&format!("cannot read the Parquet file: {what}"));
    let decoder = ParquetMetaDataPushDecoder::try_new(size).map_err(|e| failed(&e))?;
    let mut decoder = decoder.with_page_index_policy(PageIndexPolicy::Skip).with_offset_index_policy(index);
    let footer = size.saturating_sub(FOOTER_BYTES)..size;
    let mut ranges = vec![footer];
    loop {
        if ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum::<u64>() > MAX_METADATA_BYTES
        {
            return Err(failed(&"its metadata is too large"));
        }
        let data = fetch(context, &ranges).await?;
        decoder.push_ranges(ranges, data).map_err(|e| failed(&e))?;
        match decoder.try_decode().map_err(|e| failed(&e))? {
            DecodeResult::Data(metadata) => return Ok(metadata),
            DecodeResult::NeedsData(more) => ranges = more,
            DecodeResult::Finished => return Err(failed(&"the metadata ended early")),
        }
    }
}

/// Rejects a file that does not begin as Parquet, with what it is instead.
async fn check_start(context: ReadContext<'_>) -> Result<(), ReadError> {
    let start = 0..context.shard.size().min(SNIFF_BYTES);
    if start.is_empty() {
        return Err(context.data_error("not a Parquet file: it is empty"));
    }
    match sniff::not_parquet(&fetch_range(context, start).await?) {
        Some(what) => Err(context.data_error(&what)),
        None => Ok(()),
    }
}

/// Downloads ranges of the file.
pub(super) async fn fetch(context: ReadContext<'_>, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ReadError> {
    let size = context.shard.size();
    if let Some(range) = ranges.iter().find(|range| range.end > size || range.start > range.end) {
        return Err(context.data_error(&format!("its metadata names bytes {range:?} of {size}")));
    }
    stream::iter(ranges.to_vec())
        .map(|range| fetch_range(context, range))
        .buffered(CONCURRENT_REQUESTS)
        .try_collect()
        .await
}

/// Downloads a range of the file, in the version that was looked up.
async fn fetch_range(context: ReadContext<'_>, range: Range<u64>) -> Result<Bytes, ReadError> {
    let location = &context.shard.location;
    let options = GetOptions::new()
        .with_range(Some(GetRange::Bounded(range)))
        .with_if_match(context.shard.precondition());
    let got = match location.store.get_opts(&location.path, options).await {
        Ok(got) => got.bytes().await,
        Err(error) => Err(error),
    };
    let bytes = got.map_err(|e| context.store_error(&e))?;
    context.count_bytes(bytes.len());
    Ok(bytes)
}
