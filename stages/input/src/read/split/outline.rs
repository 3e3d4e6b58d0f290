//! Where the parts of a list in text begin: found in one pass, and remembered.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::{
    fetch::ListParser,
    read::{ListKind, ReadError, Reading, open, unpack::Unpack},
    shards::{Part, ShardRef, TextPart},
};

/// Form of [`Outline`].
const FORMAT: u32 = 1;

/// What is remembered of a list in text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    format: u32,
    /// URL, redacted.
    list: String,
    /// Of the list as a whole.
    fingerprint: String,
    rows_per_shard: u64,
    rows: u64,
    /// Bytes up to the end of the row of names.
    names: u64,
    /// Where each part begins, bytes.
    starts: Vec<u64>,
}

impl Outline {
    /// Whether it speaks of this list as it is now, and may be true.
    pub fn fits(&self, list: &ShardRef, rows_per_shard: u64) -> bool {
        let parts = self.starts.len() as u64;
        self.format == FORMAT
            && self.list == list.url
            && self.fingerprint == list.fingerprint()
            && self.rows_per_shard == rows_per_shard
            && self.rows.div_ceil(rows_per_shard.max(1)) == parts
            && self.starts.first().is_some_and(|start| *start >= self.names)
            && self.starts.last().is_some_and(|start| *start < list.size)
            && self.starts.is_sorted_by(|a, b| a < b)
    }

    /// Its parts, in order; none of a list without rows.
    pub fn parts(&self, list: &ShardRef) -> Vec<Part> {
        let ends = self.starts.iter().skip(1).copied().chain([list.size]);
        let ranges = self.starts.iter().zip(ends);
        let part = |(number, (start, end)): (usize, (&u64, u64))| {
            let first = number as u64 * self.rows_per_shard;
            Part {
                number,
                rows: first..self.rows.min(first + self.rows_per_shard),
                bytes: self.names + end - start,
                text: Some(TextPart { names: self.names, bytes: *start..end }),
            }
        };
        ranges.enumerate().map(part).collect()
    }
}

/// Reads a list in text to its end; `None` where it is packed.
pub async fn of_text(
    reading: Reading<'_>,
    kind: ListKind,
    rows_per_shard: u64,
) -> Result<Option<Outline>, ReadError> {
    let list = reading.shard;
    let mut outline = Outline {
        format: FORMAT,
        list: list.url.clone(),
        fingerprint: list.fingerprint(),
        rows_per_shard,
        rows: 0,
        names: 0,
        starts: Vec::new(),
    };
    let mut parser = ListParser::new(kind, reading.settings.columns.clone());
    // A part begins where the last row of the one before ends.
    let mut last_end = 0;
    let mut ends = Vec::new();
    let mut sink = |rows: &mut u64, end: u64| {
        if rows.is_multiple_of(rows_per_shard) {
            ends.push(last_end);
        }
        *rows += 1;
        last_end = end;
    };
    let failed = |e: String| reading.data(&e);
    if let Some(first) = open::first(reading).await? {
        if Unpack::recognise(&first.bytes).is_ok_and(|unpack| unpack.is_packed()) {
            return Ok(None);
        }
        let (mut piece, mut rest) = (Some(first.bytes), first.rest);
        while let Some(bytes) = piece {
            parser.push_into(&bytes, &mut |_, end| sink(&mut outline.rows, end)).map_err(failed)?;
            piece = open::next(&mut rest, reading).await?;
        }
    }
    parser.finish_into(&mut |_, end| sink(&mut outline.rows, end)).map_err(failed)?;
    outline.names = parser.names();
    outline.starts = ends;
    if let Some(start) = outline.starts.first_mut() {
        *start = outline.names;
    }
    tracing::debug!(
        list = list.url,
        rows = outline.rows,
        bytes = reading.bytes_read.load(Relaxed),
        "read through"
    );
    Ok(Some(outline))
}
