//! Delimited values (CSV, TSV): bytes in as they arrive, records out.
//!
//! RFC 4180, and what people write instead. A quote that is never closed must not swallow the rows after it. A quoted value may
//! span several lines; its quote counts as never closed when the text ends in it, when it exceeds [`MAX_RECORD_BYTES`], when
//! text follows its closing quote, or when one of its lines is a row by itself. The record then ends with the line in which the
//! quote opens.

use std::collections::VecDeque;

use super::scanner::{FieldScanner, MAX_FIELDS};

/// Longest record, bytes.
pub(crate) const MAX_RECORD_BYTES: usize = 4 << 20;
/// UTF-8 byte-order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One record of a delimited text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Values; of a malformed record, as far as they are known.
    pub(crate) fields: Vec<Vec<u8>>,
    /// Why the record is malformed.
    pub(crate) error: Option<String>,
    /// Bytes of the text up to the record's end.
    pub(crate) end: u64,
}

/// Consumes records.
pub(crate) trait RecordSink {
    /// Takes the next record.
    ///
    /// # Errors
    /// When none of the following records can be used either.
    fn push_record(&mut self, record: Record) -> Result<(), String>;

    /// Returns whether the values of a line within quotes are a row by themselves.
    fn is_row(&self, fields: &[&[u8]]) -> bool;
}

/// A line with its line end.
struct Line {
    bytes: Vec<u8>,
    /// Bytes of the line, including those that were not kept.
    length: u64,
    /// Bytes of its text, without the line end.
    text: usize,
}

/// Splits a text into records.
pub(crate) struct RecordParser {
    delimiter: u8,
    /// Whether quotes that do not enclose a value are text.
    literal_quotes: bool,
    /// The line that is arriving, at most [`MAX_RECORD_BYTES`] and its end.
    line: Vec<u8>,
    length: u64,
    after_return: bool,
    at_start: bool,
    /// Lines of the record whose quote is open.
    open: Vec<Line>,
    /// Bytes of these.
    open_bytes: usize,
    scanner: FieldScanner,
    taken: u64,
}

impl RecordParser {
    /// Creates a parser at the start of a text. In tab-separated text, quotes that do not enclose a value are text.
    #[must_use]
    pub(crate) fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            literal_quotes: delimiter == b'\t',
            line: Vec::new(),
            length: 0,
            after_return: false,
            at_start: true,
            open: Vec::new(),
            open_bytes: 0,
            scanner: FieldScanner::new(delimiter),
            taken: 0,
        }
    }

    /// Parses the next bytes.
    ///
    /// # Errors
    /// Those of the sink.
    pub(crate) fn push(&mut self, mut bytes: &[u8], sink: &mut impl RecordSink) -> Result<(), String> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) {
                if let Some(rest) = bytes.strip_prefix(b"\n") {
                    self.append(b"\n");
                    bytes = rest;
                }
                self.end_line(sink)?;
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (piece, rest) = bytes.split_at(end.map_or(bytes.len(), |at| at + 1));
            self.append(piece);
            bytes = rest;
            match piece.last() {
                Some(b'\r') if end.is_some() => self.after_return = true,
                _ if end.is_some() => self.end_line(sink)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends the text.
    ///
    /// # Errors
    /// Those of the sink.
    pub(crate) fn finish(&mut self, sink: &mut impl RecordSink) -> Result<(), String> {
        self.after_return = false;
        if self.length > 0 {
            self.end_line(sink)?;
        }
        while !self.open.is_empty() {
            let mut lines = VecDeque::new();
            self.close_unterminated("the text ends within it", &mut lines, sink)?;
            self.parse_lines(lines, sink)?;
        }
        Ok(())
    }

    /// Drops the incomplete last line.
    pub(crate) fn drop_line(&mut self) {
        (self.length, self.after_return) = (0, false);
        self.line.clear();
    }

    fn append(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        let room = (MAX_RECORD_BYTES + 2).saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn end_line(&mut self, sink: &mut impl RecordSink) -> Result<(), String> {
        let mut line =
            Line { bytes: std::mem::take(&mut self.line), length: std::mem::take(&mut self.length), text: 0 };
        if std::mem::take(&mut self.at_start) && line.bytes.starts_with(BYTE_ORDER_MARK) {
            line.bytes.drain(..BYTE_ORDER_MARK.len());
        }
        line.text = line.bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
        self.parse_lines(VecDeque::from([line]), sink)
    }

    fn parse_lines(&mut self, mut lines: VecDeque<Line>, sink: &mut impl RecordSink) -> Result<(), String> {
        while let Some(line) = lines.pop_front() {
            if self.open.is_empty() {
                self.begin(line, sink)?;
            } else if let Some(why) = self.continue_record(&line, sink) {
                lines.push_front(line);
                self.close_unterminated(why, &mut lines, sink)?;
            } else {
                self.hold(line);
                if !self.scanner.is_open() {
                    self.close(sink)?;
                }
            }
        }
        Ok(())
    }

    /// Parses the first line of a record.
    fn begin(&mut self, line: Line, sink: &mut impl RecordSink) -> Result<(), String> {
        let text = &line.bytes[..line.text];
        if text.iter().all(|byte| *byte != self.delimiter && byte.is_ascii_whitespace()) {
            self.taken += line.length;
            return Ok(());
        }
        if line.text > MAX_RECORD_BYTES {
            return self.emit(line.length, Vec::new(), Some(too_long()), sink);
        }
        self.scanner = FieldScanner::new(self.delimiter);
        self.scanner.push(text);
        if self.scanner.is_open() {
            self.scanner.push_line_end(&line.bytes[line.text..]);
            self.hold(line);
            return Ok(());
        }
        let fields = if self.literal_quotes && self.scanner.has_text_after_quote {
            self.split_literally(text)
        } else {
            self.scanner.take()
        };
        let error = (fields.len() > MAX_FIELDS).then(too_long);
        self.emit(line.length, fields, error, sink)
    }

    /// Parses a further line of the open record. Returns why it does not belong to it, if so.
    fn continue_record(&mut self, line: &Line, sink: &impl RecordSink) -> Option<&'static str> {
        if self.open_bytes + line.bytes.len() > MAX_RECORD_BYTES {
            return Some("it would be longer than any record");
        }
        let text = &line.bytes[..line.text];
        // Only the values before the first quote are certain.
        let quote = text.iter().position(|byte| *byte == b'"');
        let before: Vec<&[u8]> =
            text[..quote.unwrap_or(text.len())].split(|byte| *byte == self.delimiter).collect();
        let mut alone = FieldScanner::new(self.delimiter);
        alone.push(text);
        let count = alone.take().len();
        let sure = if quote.is_some() { &before[..before.len() - 1] } else { &before[..] };
        let mut values = sure.to_vec();
        values.resize(count.max(sure.len()), b"");
        if sink.is_row(&values) {
            return Some("the next line is a row by itself");
        }
        self.scanner.has_text_after_quote = false;
        self.scanner.push(text);
        if self.scanner.has_text_after_quote {
            return Some("text follows the next quote");
        }
        if self.scanner.is_open() {
            self.scanner.push_line_end(&line.bytes[line.text..]);
        }
        None
    }

    fn hold(&mut self, line: Line) {
        self.open_bytes += line.bytes.len();
        self.open.push(line);
    }

    /// Ends the open record.
    fn close(&mut self, sink: &mut impl RecordSink) -> Result<(), String> {
        self.open_bytes = 0;
        let length = self.open.drain(..).map(|line| line.length).sum();
        let fields = self.scanner.take();
        let error = (fields.len() > MAX_FIELDS).then(too_long);
        self.emit(length, fields, error, sink)
    }

    /// Ends the open record after its first line, in which a quote is never closed. Its other lines are parsed again.
    fn close_unterminated(
        &mut self,
        why: &str,
        lines: &mut VecDeque<Line>,
        sink: &mut impl RecordSink,
    ) -> Result<(), String> {
        self.open_bytes = 0;
        let mut open = std::mem::take(&mut self.open).into_iter();
        let Some(first) = open.next() else { return Ok(()) };
        for line in open.rev() {
            lines.push_front(line);
        }
        let text = &first.bytes[..first.text];
        let fields = self.split_literally(text);
        let error = format!("a quote opens in the row and is never closed ({why})");
        self.emit(first.length, fields, (!self.literal_quotes).then_some(error), sink)
    }

    /// Splits a line in which quotes are text.
    fn split_literally(&self, text: &[u8]) -> Vec<Vec<u8>> {
        text.split(|byte| *byte == self.delimiter).map(<[u8]>::to_vec).collect()
    }

    fn emit(
        &mut self,
        length: u64,
        fields: Vec<Vec<u8>>,
        error: Option<String>,
        sink: &mut impl RecordSink,
    ) -> Result<(), String> {
        self.taken += length;
        sink.push_record(Record { fields, error, end: self.taken })
    }
}

fn too_long() -> String {
    format!("the row has more than {MAX_RECORD_BYTES} bytes or {MAX_FIELDS} values")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Collects records; a row has two values, the first a URL.
    #[derive(Default)]
    struct TwoColumns(Vec<Record>);

    impl RecordSink for TwoColumns {
        fn push_record(&mut self, record: Record) -> Result<(), String> {
            self.0.push(record);
            Ok(())
        }

        fn is_row(&self, fields: &[&[u8]]) -> bool {
            fields.len() == 2 && fields[0].starts_with(b"http")
        }
    }

    fn read(delimiter: u8, text: &str, chunk: usize) -> Vec<Record> {
        let (mut records, mut rows) = (RecordParser::new(delimiter), TwoColumns::default());
        for piece in text.as_bytes().chunks(chunk) {
            records.push(piece, &mut rows).expect("records");
        }
        records.finish(&mut rows).expect("records");
        rows.0
    }

    #[track_caller]
    fn check(delimiter: u8, text: &str, wanted: &[(&[&str], bool)]) {
        for chunk in [1, 2, 3, 7, 1000] {
            let records = read(delimiter, text, chunk);
            let found: Vec<(Vec<String>, bool)> = records
                .iter()
                .map(|r| {
                    let fields = r.fields.iter().map(|f| String::from_utf8_lossy(f).into_owned());
                    (fields.collect(), r.error.is_some())
                })
                .collect();
            let wanted: Vec<(Vec<String>, bool)> =
                wanted.iter().map(|(f, bad)| (f.iter().map(|f| (*f).to_owned()).collect(), *bad)).collect();
            assert_eq!(found, wanted, "{text:?} in chunks of {chunk}");
            assert_eq!(
                records.last().map(|r| r.end),
                Some(text.trim_end_matches(' ').len() as u64),
                "{text:?}"
            );
            assert!(records.is_sorted_by(|a, b| a.end < b.end));
        }
    }

    #[test]
    fn quoted_values_span_lines() {
        check(
            b',',
            "a,b\n\"c,1\",\"d \"\"e\"\"\"\r\n\r\nf,\n,\n",
            &[(&["a", "b"], false), (&["c,1", "d \"e\""], false), (&["f", ""], false), (&["", ""], false)],
        );
        check(
            b',',
            "a,\"one\n\ntwo, and\r\nthree\"\rb,c",
            &[(&["a", "one\n\ntwo, and\r\nthree"], false), (&["b", "c"], false)],
        );
        check(b',', "\u{feff}a,b\n", &[(&["a", "b"], false)]);
        check(
            b',',
            "\"line one\nline two\",http://u\nc,d\n",
            &[(&["line one\nline two", "http://u"], false), (&["c", "d"], false)],
        );
    }

    #[test]
    fn unclosed_quote_costs_one_row() {
        let bad = |text: &'static str| -> Vec<&'static str> { text.split(',').collect() };
        for text in [
            "http://a,x\nhttp://b,\"5 inch\nhttp://c,y\nhttp://d,z\n",
            "http://a,x\nhttp://b,\"5 inch\nhttp://c,\"y\"\nhttp://d,z\n",
            "http://a,x\nhttp://b,\"5 inch\nhttp://c,3\" wide\nhttp://d,z\n",
            "http://a,x\nhttp://b,\"5 inch\nhttp://c,3\"\nhttp://d,z\n",
        ] {
            let records = read(b',', text, 5);
            assert_eq!(records.len(), 4, "{text}: {records:?}");
            assert_eq!(
                records.iter().map(|r| r.error.is_some()).collect::<Vec<_>>(),
                [false, true, false, false]
            );
        }
        check(
            b',',
            "http://a,\"5 inch\nno row\nhttp://c,d",
            &[(&bad("http://a,\"5 inch"), true), (&["no row"], false), (&["http://c", "d"], false)],
        );
        check(b',', "x,y\nhttp://b,\"cut", &[(&["x", "y"], false), (&["http://b", "\"cut"], true)]);
    }

    #[test]
    fn quotes_are_text_in_tab_separated_values() {
        check(
            b'\t',
            "http://a\t\"5 inch\nhttp://b\t\"a\" b\nhttp://c\t\"d\te\"\n",
            &[
                (&["http://a", "\"5 inch"], false),
                (&["http://b", "\"a\" b"], false),
                (&["http://c", "d\te"], false),
            ],
        );
    }

    #[test]
    fn overlong_records_are_malformed() {
        let long = "x".repeat(MAX_RECORD_BYTES + 10);
        let records = read(b',', &format!("{long}\nhttp://a,b\n"), 1 << 16);
        assert_eq!(records.iter().map(|r| r.error.is_some()).collect::<Vec<_>>(), [true, false]);
        // One unclosed quote before many lines of text, none of which is a row by itself.
        let lines: String = (0..200_000).map(|n| format!("picture number {n} of many, b\n")).collect();
        let records = read(b',', &format!("a,\"open\n{lines}"), 1 << 16);
        assert_eq!(records.len(), 200_001);
        assert_eq!(records.iter().filter(|r| r.error.is_some()).count(), 1);
    }
}
