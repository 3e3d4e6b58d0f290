//! Rows of a table, one row group at a time. A damaged row group loses its own rows only.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use arrow_array::RecordBatch;
use parquet::{
    DecodeResult,
    arrow::{ProjectionMask, push_decoder::ParquetPushDecoder},
    file::metadata::ParquetMetaData,
};

use recaption_messages::ReadError;

use super::footer::{builder, fetch};
use crate::{keys::RowKey, read::context::ReadContext};

/// Most lost rows that are rejected one by one. Beyond that there is one reject per row group: a footer may claim any number of
/// rows.
const MAX_LOST_ROWS: u64 = 1 << 20;

/// Some rows of a row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowRange {
    pub(super) group: usize,
    /// Rows of the group before these.
    pub(super) offset: u64,
    pub(super) rows: u64,
}

/// Returns the row ranges that hold the rows `selected`, or all rows, and the number of all rows.
pub(super) fn row_ranges(
    metadata: &ParquetMetaData,
    selected: Option<&Range<u64>>,
) -> (VecDeque<RowRange>, u64) {
    let (mut at, mut ranges) = (0_u64, VecDeque::new());
    for (group, metadata) in metadata.row_groups().iter().enumerate() {
        let end = at.saturating_add(u64::try_from(metadata.num_rows()).unwrap_or(0));
        let (from, to) = selected.map_or((at, end), |rows| (rows.start.max(at), rows.end.min(end)));
        if from < to {
            ranges.push_back(RowRange { group, offset: from - at, rows: to - from });
        }
        at = end;
    }
    (ranges, at)
}

/// The next rows of a table.
pub(super) enum TableChunk {
    /// Rows.
    Rows(RecordBatch),
    /// Rows that cannot be decoded. Other row groups may be readable.
    Lost(LostRows),
}

/// Rows of a row group that cannot be decoded.
pub(super) struct LostRows {
    group: usize,
    pub(super) rows: u64,
    error: String,
    /// Whether they are rejected one by one, or as one reject.
    one_by_one: bool,
}

impl LostRows {
    /// Returns the number of rejects.
    pub(super) fn rejects(&self) -> u64 {
        if self.one_by_one { self.rows } else { 1 }
    }

    /// Returns the key of the reject of row number `row`; empty for one reject of all rows.
    pub(super) fn key(&self, row: u64) -> RowKey {
        if self.one_by_one { RowKey::of_number(row) } else { RowKey::Derived(String::new()) }
    }

    /// Returns the detail of the rejects, for rows from number `from` of `of`.
    pub(super) fn detail(&self, from: u64, of: u64) -> String {
        let Self { group, rows, error, .. } = self;
        format!("row group {group}: {error} ({rows} rows from row {from} of {of} not read)")
    }
}

/// Why a row group cannot be decoded.
enum DecodeError {
    /// Its bytes cannot be read: an error of the shard.
    Read(ReadError),
    /// Its bytes are damaged. Other row groups may be intact.
    Damaged(String),
}

/// Reads the rows of a table, one row group at a time.
pub(super) struct RowReader<'a> {
    context: ReadContext<'a>,
    metadata: Arc<ParquetMetaData>,
    mask: ProjectionMask,
    batch_rows: usize,
    ranges: VecDeque<RowRange>,
    /// Decoder of the first range.
    decoder: Option<ParquetPushDecoder>,
    /// Rows lost so far.
    lost: u64,
}

impl<'a> RowReader<'a> {
    /// Creates a reader of the rows in `ranges`, in batches of `batch_rows`.
    pub(super) fn new(
        context: ReadContext<'a>,
        (metadata, mask): (Arc<ParquetMetaData>, ProjectionMask),
        batch_rows: usize,
        ranges: VecDeque<RowRange>,
    ) -> Self {
        Self { context, metadata, mask, batch_rows, ranges, decoder: None, lost: 0 }
    }

    /// Returns the next rows; `None` at the end.
    ///
    /// # Errors
    /// When the bytes of the shard cannot be read.
    pub(super) async fn next(&mut self) -> Result<Option<TableChunk>, ReadError> {
        loop {
            let Some(range) = self.ranges.front() else { return Ok(None) };
            if range.rows == 0 {
                self.ranges.pop_front();
                self.decoder = None;
                continue;
            }
            let error = match self.next_batch().await {
                Ok(Some(batch)) => return Ok(Some(TableChunk::Rows(batch))),
                Ok(None) => "it has fewer rows than its footer says".to_owned(),
                Err(DecodeError::Read(error)) => return Err(error),
                Err(DecodeError::Damaged(error)) => error,
            };
            self.decoder = None;
            let Some(RowRange { group, rows, .. }) = self.ranges.pop_front() else { return Ok(None) };
            self.lost = self.lost.saturating_add(rows);
            let one_by_one = self.lost <= MAX_LOST_ROWS;
            return Ok(Some(TableChunk::Lost(LostRows { group, rows, error, one_by_one })));
        }
    }

    fn decoder_of(&self, range: &RowRange) -> Result<ParquetPushDecoder, String> {
        let size = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let builder =
            builder(&self.metadata)?.with_projection(self.mask.clone()).with_batch_size(self.batch_rows);
        let builder = builder.with_row_groups(vec![range.group]);
        let builder = builder.with_offset(size(range.offset)).with_limit(size(range.rows));
        builder.build().map_err(|e| e.to_string())
    }

    /// Decodes the next batch of the first range.
    async fn next_batch(&mut self) -> Result<Option<RecordBatch>, DecodeError> {
        let Some(range) = self.ranges.front() else { return Ok(None) };
        let mut next = match self.decoder.take() {
            Some(decoder) => Some(decoder),
            None => Some(self.decoder_of(range).map_err(DecodeError::Damaged)?),
        };
        while let Some(mut decoder) = next.take() {
            let work = move || {
                // A decoder that panics on damaged bytes must not end the run.
                let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decoder.try_decode()));
                (decoder, decoded)
            };
            let (mut decoder, decoded) = tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| DecodeError::Damaged(format!("decoding failed: {e}")))?;
            let decoded =
                decoded.map_err(|_| DecodeError::Damaged("the decoder panicked on these bytes".into()))?;
            match decoded.map_err(|e| DecodeError::Damaged(e.to_string()))? {
                DecodeResult::Data(batch) => {
                    self.decoder = Some(decoder);
                    let Some(range) = self.ranges.front_mut() else { return Ok(None) };
                    let rows = range.rows.min(batch.num_rows() as u64);
                    range.rows -= rows;
                    return Ok(Some(batch.slice(0, usize::try_from(rows).unwrap_or(0))));
                }
                DecodeResult::NeedsData(ranges) => {
                    let data = fetch(self.context, &ranges).await.map_err(DecodeError::Read)?;
                    decoder.push_ranges(ranges, data).map_err(|e| DecodeError::Damaged(e.to_string()))?;
                    next = Some(decoder);
                }
                DecodeResult::Finished => {}
            }
        }
        Ok(None)
    }
}
