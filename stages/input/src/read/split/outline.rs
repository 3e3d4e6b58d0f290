//! Where the parts of a list in text begin: found in one pass over the list, and stored in the output.

use std::sync::atomic::Ordering::Relaxed;

use recaption_messages::ReadError;
use serde::{Deserialize, Serialize};

use crate::{
    format::ListKind,
    lists::ListParser,
    read::{context::ReadContext, decompress::Decompressor, open},
    shards::{ListPart, ShardRef, TextRange},
};

/// Version of the stored form of [`Outline`].
const FORMAT: u32 = 1;

/// The rows of a list in text, as they are stored in the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outline {
    format: u32,
    /// URL of the list, redacted.
    list: String,
    /// Fingerprint of the whole list.
    fingerprint: String,
    rows_per_shard: u64,
    rows: u64,
    /// Bytes up to the end of the header row.
    #[serde(rename = "names")]
    header_bytes: u64,
    /// Byte at which each part begins.
    starts: Vec<u64>,
}

impl Outline {
    /// Returns whether it describes the current version of this list and is consistent.
    pub(super) fn matches(&self, list: &ShardRef, rows_per_shard: u64) -> bool {
        let parts = self.starts.len() as u64;
        self.format == FORMAT
            && self.list == list.url
            && self.fingerprint == list.fingerprint()
            && self.rows_per_shard == rows_per_shard
            && self.rows.div_ceil(rows_per_shard.max(1)) == parts
            && self.starts.first().is_some_and(|start| *start >= self.header_bytes)
            && self.starts.last().is_some_and(|start| *start < list.size())
            && self.starts.is_sorted_by(|a, b| a < b)
    }

    /// Returns the parts of the list, in order; none if it has no rows.
    pub(super) fn parts(&self, list: &ShardRef) -> Vec<ListPart> {
        let ends = self.starts.iter().skip(1).copied().chain([list.size()]);
        let ranges = self.starts.iter().zip(ends);
        let part = |(number, (start, end)): (usize, (&u64, u64))| {
            let first = number as u64 * self.rows_per_shard;
            ListPart {
                number,
                rows: first..self.rows.min(first + self.rows_per_shard),
                bytes: self.header_bytes + end - start,
                text: Some(TextRange { header_bytes: self.header_bytes, bytes: *start..end }),
            }
        };
        ranges.enumerate().map(part).collect()
    }
}

/// Reads a list in text to its end; `None` if it is compressed.
pub(super) async fn of_text(
    context: ReadContext<'_>,
    kind: ListKind,
    rows_per_shard: u64,
) -> Result<Option<Outline>, ReadError> {
    let list = context.shard;
    let mut outline = Outline {
        format: FORMAT,
        list: list.url.clone(),
        fingerprint: list.fingerprint(),
        rows_per_shard,
        rows: 0,
        header_bytes: 0,
        starts: Vec::new(),
    };
    let settings = context.settings;
    let parser = ListParser::new(kind, settings.columns.clone());
    let mut parser = parser.with_setting_names(settings.setting_names);
    // A part begins where the last row of the previous part ends.
    let mut last_end = 0;
    let mut starts = Vec::new();
    let mut sink = |rows: &mut u64, end: u64| {
        if rows.is_multiple_of(rows_per_shard) {
            starts.push(last_end);
        }
        *rows += 1;
        last_end = end;
    };
    let failed = |e: String| context.data_error(&e);
    if let Some(first) = open::open_shard(context).await? {
        if Decompressor::detect(&first.bytes).is_ok_and(|stream| stream.is_compressed()) {
            return Ok(None);
        }
        let (mut piece, mut rest) = (Some(first.bytes), first.rest);
        while let Some(bytes) = piece {
            parser.push_into(&bytes, &mut |_, end| sink(&mut outline.rows, end)).map_err(failed)?;
            piece = open::next(&mut rest, context).await?;
        }
    }
    parser.finish_into(&mut |_, end| sink(&mut outline.rows, end)).map_err(failed)?;
    outline.header_bytes = parser.header_bytes();
    outline.starts = starts;
    if let Some(start) = outline.starts.first_mut() {
        *start = outline.header_bytes;
    }
    tracing::debug!(
        list = list.url,
        rows = outline.rows,
        bytes = context.bytes_read.load(Relaxed),
        "read a list to find its parts"
    );
    Ok(Some(outline))
}
