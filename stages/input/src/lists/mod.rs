//! Lists of URLs in text: bytes in as they arrive, rows out.
//!
//! [`ListParser`] is pushed bytes of a CSV, TSV, JSON lines or plain text list and returns [`ListRow`]s. A malformed row is a
//! row with an error, so that every row is counted. Nothing is fetched here (see [`crate::fetch`]); no I/O, and at most one
//! record is held.
//!
//! | file | what |
//! |---|---|
//! | `delimited`, `scanner` | bytes -> records of values |
//! | `header` | records -> rows |
//! | `lines` | lines -> rows |

pub(crate) mod delimited;
mod header;
mod lines;
mod row;
mod scanner;
#[cfg(test)]
mod tests;

pub use crate::keys::RowKey;
use delimited::RecordParser;
use header::{DelimitedList, RowBuilder};
use lines::{LineList, PartialLine};
pub use row::ListRow;
use row::{Position, RowSink};

use crate::{columns::Columns, format::ListKind, setting_names::SettingNames};

/// Parses a list of URLs.
pub struct ListParser {
    columns: Columns,
    names: SettingNames,
    format: Format,
    position: Position,
}

/// The parser of a list's syntax.
enum Format {
    /// CSV and TSV.
    Delimited(Box<(RecordParser, DelimitedList)>),
    /// JSON lines and plain text.
    Lines(LineList),
}

impl std::fmt::Debug for ListParser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListParser").field("position", &self.position).finish_non_exhaustive()
    }
}

impl ListParser {
    /// Creates a parser at the start of a list.
    #[must_use]
    pub fn new(kind: ListKind, columns: Columns) -> Self {
        let delimited =
            |delimiter| Format::Delimited(Box::new((RecordParser::new(delimiter), DelimitedList::default())));
        let format = match kind {
            ListKind::Csv => delimited(b','),
            ListKind::Tsv => delimited(b'\t'),
            ListKind::JsonLines => Format::Lines(LineList::new(true)),
            ListKind::Text => Format::Lines(LineList::new(false)),
        };
        Self { columns, names: SettingNames::default(), format, position: Position::default() }
    }

    /// Sets the names of settings in messages.
    #[must_use]
    pub fn with_setting_names(self, names: SettingNames) -> Self {
        Self { names, ..self }
    }

    /// Makes this the parser of a part of a list that begins at row `rows`. Its input is the header row, where the list has
    /// one, and then the part.
    #[must_use]
    pub fn with_row_offset(mut self, rows: u64) -> Self {
        self.position.offset = rows;
        self
    }

    /// Returns the number of bytes up to the end of the header row, once rows were found; 0 for a list without one.
    #[must_use]
    pub fn header_bytes(&self) -> u64 {
        match &self.format {
            Format::Delimited(format) => format.1.header_bytes,
            Format::Lines(_) => 0,
        }
    }

    /// Describes which columns are used for what, once the first row was parsed.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        let header = match &self.format {
            Format::Delimited(format) => format.1.header.as_ref()?,
            Format::Lines(lines) => return lines.described.clone(),
        };
        let name = |at: Option<usize>| at.map_or("none", |at| header.names[at].as_str());
        let others = header.others().map(|at| header.names[at].as_str()).collect::<Vec<_>>();
        Some(format!(
            "url={} caption={} key={} meta={}",
            header.names[header.url],
            name(header.caption),
            header.key.map_or("row number", |at| &header.names[at]),
            if others.is_empty() { "none".to_owned() } else { others.join(", ") }
        ))
    }

    /// Parses the next bytes and returns the rows that they complete.
    ///
    /// # Errors
    /// When the list has no column of URLs, or lacks one that is configured.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<ListRow>, String> {
        let mut rows = Vec::new();
        self.push_into(bytes, &mut |row, _| rows.push(row))?;
        Ok(rows)
    }

    /// Parses the next bytes, and passes each row to `sink` with the number of bytes up to its end, where the parser of
    /// another part may begin.
    ///
    /// # Errors
    /// As [`ListParser::push`].
    pub fn push_into(&mut self, bytes: &[u8], sink: RowSink<'_>) -> Result<(), String> {
        let Self { columns, names, format, position } = self;
        match format {
            Format::Delimited(format) => {
                let (records, list) = format.as_mut();
                records.push(bytes, &mut RowBuilder { list, columns, names, position, sink })
            }
            Format::Lines(lines) => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    position.bytes += piece.len() as u64;
                    lines.line.push(piece);
                    if piece.ends_with(b"\n")
                        && let Some(row) = lines.end_line(columns, names, position)
                    {
                        sink(row, position.bytes);
                    }
                }
                Ok(())
            }
        }
    }

    /// Ends the list, and returns the last row where no line end follows it.
    ///
    /// # Errors
    /// As [`ListParser::push`]; a list without its header row.
    pub fn finish(&mut self) -> Result<Vec<ListRow>, String> {
        let mut rows = Vec::new();
        self.finish_into(&mut |row, _| rows.push(row))?;
        Ok(rows)
    }

    /// Ends a truncated list: drops its incomplete last line and returns the rows before it.
    #[must_use]
    pub fn finish_truncated(&mut self) -> Vec<ListRow> {
        match &mut self.format {
            Format::Delimited(format) => format.0.drop_line(),
            Format::Lines(lines) => lines.line = PartialLine::default(),
        }
        let mut rows = Vec::new();
        // A list that is cut in its header row has no rows.
        let _ = self.finish_into(&mut |row, _| rows.push(row));
        rows
    }

    /// Ends the list, as [`ListParser::finish`], and passes the last row to `sink`.
    ///
    /// # Errors
    /// As [`ListParser::finish`].
    pub fn finish_into(&mut self, sink: RowSink<'_>) -> Result<(), String> {
        let Self { columns, names, format, position } = self;
        match format {
            Format::Delimited(format) => {
                let (records, list) = format.as_mut();
                records.finish(&mut RowBuilder { list, columns, names, position, sink })?;
                if list.header.is_none() {
                    return Err(
                        "the list is empty: it needs a header row with the names of its columns".into()
                    );
                }
            }
            Format::Lines(lines) => {
                if let Some(row) = lines.end_line(columns, names, position) {
                    sink(row, position.bytes);
                }
            }
        }
        Ok(())
    }
}
