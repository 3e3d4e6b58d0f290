//! Rows of a table, row group by row group: one that is damaged costs its own rows.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use arrow_array::RecordBatch;
use parquet::{
    DecodeResult,
    arrow::{ProjectionMask, push_decoder::ParquetPushDecoder},
    file::metadata::ParquetMetaData,
};

use super::{builder, fetch};
use crate::{
    label::Label,
    read::{ReadError, Reading},
};

/// Most rows that cannot be read and are rejected one by one; of more there is one reject for each row group. A footer may
/// claim any number.
const MAX_LOST_ROWS: u64 = 1 << 20;

/// Some rows of a row group.
pub struct Piece {
    group: usize,
    /// Rows of the group before them.
    before: u64,
    rows: u64,
}

/// The pieces that hold some rows, and the number of all rows.
pub fn pieces(metadata: &ParquetMetaData, wanted: Option<&Range<u64>>) -> (VecDeque<Piece>, u64) {
    let (mut at, mut pieces) = (0_u64, VecDeque::new());
    for (group, about) in metadata.row_groups().iter().enumerate() {
        let end = at.saturating_add(u64::try_from(about.num_rows()).unwrap_or(0));
        let (from, to) = wanted.map_or((at, end), |wanted| (wanted.start.max(at), wanted.end.min(end)));
        if from < to {
            pieces.push_back(Piece { group, before: from - at, rows: to - from });
        }
        at = end;
    }
    (pieces, at)
}

/// What a row is called that nothing else names.
pub fn number(row: u64) -> Label {
    Label::Derived(format!("{row:09}"))
}

/// What comes next of a table.
pub enum Step {
    Rows(RecordBatch),
    /// Rows that cannot be read; those of other row groups can.
    Lost(Lost),
}

/// Rows that cannot be read.
pub struct Lost {
    group: usize,
    pub rows: u64,
    why: String,
    /// Whether they are rejected one by one.
    each: bool,
}

impl Lost {
    /// How many rejects they are.
    pub fn rejects(&self) -> u64 {
        if self.each { self.rows } else { 1 }
    }

    /// What a row of them is called; all together nothing.
    pub fn label(&self, row: u64) -> Label {
        if self.each { number(row) } else { Label::Derived(String::new()) }
    }

    /// What a reject says of them, from row `from` of `of`.
    pub fn detail(&self, from: u64, of: u64) -> String {
        let Self { group, rows, why, .. } = self;
        format!("row group {group}: {why} ({rows} rows from row {from} of {of} not read)")
    }
}

/// Why a row group ends early.
enum Broken {
    /// The shard cannot be read now.
    Shard(ReadError),
    /// The bytes are damaged: other row groups may be whole.
    Bytes(String),
}

/// Reads the rows of a table, a row group at a time.
pub struct RowReader<'a> {
    reading: Reading<'a>,
    metadata: Arc<ParquetMetaData>,
    mask: ProjectionMask,
    batch: usize,
    pieces: VecDeque<Piece>,
    /// Of the first piece.
    decoder: Option<ParquetPushDecoder>,
    /// Rows that could not be read so far.
    lost: u64,
}

impl<'a> RowReader<'a> {
    /// Nothing is read yet.
    pub fn new(
        reading: Reading<'a>,
        (metadata, mask): (Arc<ParquetMetaData>, ProjectionMask),
        batch: usize,
        pieces: VecDeque<Piece>,
    ) -> Self {
        Self { reading, metadata, mask, batch, pieces, decoder: None, lost: 0 }
    }

    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// When the shard cannot be read now.
    pub async fn next(&mut self) -> Result<Option<Step>, ReadError> {
        loop {
            let Some(piece) = self.pieces.front() else { return Ok(None) };
            if piece.rows == 0 {
                self.pieces.pop_front();
                self.decoder = None;
                continue;
            }
            let why = match self.batch().await {
                Ok(Some(batch)) => return Ok(Some(Step::Rows(batch))),
                Ok(None) => "it has fewer rows than its footer says".to_owned(),
                Err(Broken::Shard(error)) => return Err(error),
                Err(Broken::Bytes(why)) => why,
            };
            self.decoder = None;
            let Some(Piece { group, rows, .. }) = self.pieces.pop_front() else { return Ok(None) };
            self.lost = self.lost.saturating_add(rows);
            return Ok(Some(Step::Lost(Lost { group, rows, why, each: self.lost <= MAX_LOST_ROWS })));
        }
    }

    fn begin(&self, piece: &Piece) -> Result<ParquetPushDecoder, String> {
        let size = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let builder = builder(&self.metadata)?.with_projection(self.mask.clone()).with_batch_size(self.batch);
        let builder = builder.with_row_groups(vec![piece.group]);
        let builder = builder.with_offset(size(piece.before)).with_limit(size(piece.rows));
        builder.build().map_err(|e| e.to_string())
    }

    /// The next batch of the first piece.
    async fn batch(&mut self) -> Result<Option<RecordBatch>, Broken> {
        let Some(piece) = self.pieces.front_mut() else { return Ok(None) };
        let mut next = match self.decoder.take() {
            Some(decoder) => Some(decoder),
            None => {
                let piece = Piece { ..*piece };
                Some(self.begin(&piece).map_err(Broken::Bytes)?)
            }
        };
        while let Some(mut decoder) = next.take() {
            let work = move || {
                // A decoder that panics on damaged bytes must not take the run with it.
                let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decoder.try_decode()));
                (decoder, decoded)
            };
            let (mut decoder, decoded) = tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| Broken::Bytes(format!("decoding broke down: {e}")))?;
            let decoded = decoded.map_err(|_| Broken::Bytes("the decoder panicked on these bytes".into()))?;
            match decoded.map_err(|e| Broken::Bytes(e.to_string()))? {
                DecodeResult::Data(batch) => {
                    self.decoder = Some(decoder);
                    let Some(piece) = self.pieces.front_mut() else { return Ok(None) };
                    let rows = piece.rows.min(batch.num_rows() as u64);
                    piece.rows -= rows;
                    return Ok(Some(batch.slice(0, usize::try_from(rows).unwrap_or(0))));
                }
                DecodeResult::NeedsData(ranges) => {
                    let data = fetch(self.reading, &ranges).await.map_err(Broken::Shard)?;
                    decoder.push_ranges(ranges, data).map_err(|e| Broken::Bytes(e.to_string()))?;
                    next = Some(decoder);
                }
                DecodeResult::Finished => {}
            }
        }
        Ok(None)
    }
}
