//! A part of a list of addresses that is a shard of its own.

use std::ops::Range;

use recaption_schemas::{ShardId, part_url};

use super::ShardRef;

/// Some rows of a list. The list's other parts are other shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which, from 0.
    pub number: usize,
    /// Rows of the list, from 0.
    pub rows: Range<u64>,
    /// Bytes that reading it takes.
    pub bytes: u64,
    /// Where they are in a list in text; of Parquet nothing.
    pub text: Option<TextPart>,
}

/// Rows of a list in text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPart {
    /// Bytes at the beginning of the list up to the end of its row of names.
    pub names: u64,
    /// Bytes of the rows.
    pub bytes: Range<u64>,
}

impl ShardRef {
    /// A part of this list. The first is called as the list, so that a list that outgrows one shard keeps its name.
    #[must_use]
    pub fn part(&self, part: Part) -> Self {
        let url = part_url(&self.url, part.number);
        Self { id: ShardId::from_url(&url), url, part: Some(part), ..self.clone() }
    }
}
