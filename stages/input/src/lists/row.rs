//! A row of a list, and its position.

use crate::keys::RowKey;

/// One row of a list of URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRow {
    /// Position among the parsed rows, from 0; the header row does not count.
    pub index: u64,
    /// Value of the key column, or else the row's number within the whole list, nine digits.
    pub key: RowKey,
    /// URL of the image, or why the row is malformed.
    pub url: Result<String, String>,
    /// Original captions.
    pub captions: Vec<String>,
    /// The other columns, as a JSON object.
    pub meta: Option<String>,
}

impl ListRow {
    /// Returns a row that is malformed.
    pub(super) fn malformed((index, key): (u64, RowKey), error: String) -> Self {
        Self { index, key, url: Err(error), captions: Vec::new(), meta: None }
    }
}

/// How far a list was parsed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    /// Rows of the list before the parsed part.
    pub(super) offset: u64,
    /// Index of the next row.
    next: u64,
    /// Bytes parsed.
    pub(super) bytes: u64,
}

impl Position {
    /// Returns the index of the next row, and its key where no column declares one.
    pub(super) fn next_row(&mut self) -> (u64, RowKey) {
        let index = self.next;
        self.next += 1;
        (index, RowKey::of_number(self.offset + index))
    }
}

/// Takes rows, each with the number of bytes up to its end.
pub(super) type RowSink<'a> = &'a mut dyn FnMut(ListRow, u64);
