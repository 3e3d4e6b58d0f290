//! Values between commas or tabs: bytes in as they arrive, records out.
//!
//! As RFC 4180 has it, and as people write it. What matters here is where a record ends: a quote that is never closed must not
//! swallow the rows behind it. A quoted value may run over several lines; it is taken for one whose quote is not closed when
//! the text ends in it, when it is longer than [`MAX_RECORD_BYTES`], when its closing quote is followed by more text, or when
//! a line of it is a row by itself. Then the record is the line in which the quote opens, and the next line begins another.

use std::collections::VecDeque;

/// Longest record, bytes.
pub const MAX_RECORD_BYTES: usize = 4 << 20;
/// Most values in a record.
pub const MAX_FIELDS: usize = 4096;
/// What some programs write before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its values; of one that is bad as far as they are known.
    pub fields: Vec<Vec<u8>>,
    /// What is wrong with it.
    pub bad: Option<String>,
    /// Bytes of the text up to its end.
    pub end: u64,
}

/// Tells whether a line is a row by itself.
pub trait Rows {
    /// Takes the next record.
    ///
    /// # Errors
    /// When nothing that follows can be understood.
    fn record(&mut self, record: Record) -> Result<(), String>;

    /// Whether these values, of a line that stands within quotes, are a row.
    fn is_row(&self, fields: &[&[u8]]) -> bool;
}

/// A line with its end.
struct Line {
    bytes: Vec<u8>,
    /// All of it, what was not kept included.
    length: u64,
    /// Where its text ends, without what ends the line.
    text: usize,
}

/// Cuts a text into records.
pub struct Records {
    delimiter: u8,
    /// Quotes that do not enclose a value are usual text.
    literal: bool,
    /// The line that is arriving.
    line: Vec<u8>,
    length: u64,
    after_return: bool,
    at_start: bool,
    /// Lines of a record whose quote is open.
    open: Vec<Line>,
    /// Bytes of these.
    open_bytes: usize,
    scan: Scan,
    taken: u64,
}

impl Records {
    /// At the start of a text. With tabs between, quotes that do not enclose a value are usual text.
    #[must_use]
    pub fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            literal: delimiter == b'\t',
            line: Vec::new(),
            length: 0,
            after_return: false,
            at_start: true,
            open: Vec::new(),
            open_bytes: 0,
            scan: Scan::new(delimiter),
            taken: 0,
        }
    }

    /// Takes bytes.
    ///
    /// # Errors
    /// What `rows` says.
    pub fn push(&mut self, mut bytes: &[u8], rows: &mut impl Rows) -> Result<(), String> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) {
                if let Some(rest) = bytes.strip_prefix(b"\n") {
                    self.append(b"\n");
                    bytes = rest;
                }
                self.end_line(rows)?;
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (piece, rest) = bytes.split_at(end.map_or(bytes.len(), |at| at + 1));
            self.append(piece);
            bytes = rest;
            match piece.last() {
                Some(b'\r') if end.is_some() => self.after_return = true,
                _ if end.is_some() => self.end_line(rows)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The text has ended.
    ///
    /// # Errors
    /// What `rows` says.
    pub fn finish(&mut self, rows: &mut impl Rows) -> Result<(), String> {
        self.after_return = false;
        if self.length > 0 {
            self.end_line(rows)?;
        }
        while !self.open.is_empty() {
            let mut lines = VecDeque::new();
            self.give_up("the text ends within it", &mut lines, rows)?;
            self.lines(lines, rows)?;
        }
        Ok(())
    }

    /// Forgets the line that has begun to arrive: its rest never will.
    pub fn drop_line(&mut self) {
        (self.length, self.after_return) = (0, false);
        self.line.clear();
    }

    fn append(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        let room = (MAX_RECORD_BYTES + 2).saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn end_line(&mut self, rows: &mut impl Rows) -> Result<(), String> {
        let mut line =
            Line { bytes: std::mem::take(&mut self.line), length: std::mem::take(&mut self.length), text: 0 };
        if std::mem::take(&mut self.at_start) && line.bytes.starts_with(BYTE_ORDER_MARK) {
            line.bytes.drain(..BYTE_ORDER_MARK.len());
        }
        line.text = line.bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
        self.lines(VecDeque::from([line]), rows)
    }

    fn lines(&mut self, mut lines: VecDeque<Line>, rows: &mut impl Rows) -> Result<(), String> {
        while let Some(line) = lines.pop_front() {
            if self.open.is_empty() {
                self.begin(line, rows)?;
            } else if let Some(why) = self.go_on(&line, rows) {
                lines.push_front(line);
                self.give_up(why, &mut lines, rows)?;
            } else {
                self.hold(line);
                if !self.scan.is_open() {
                    self.close(rows)?;
                }
            }
        }
        Ok(())
    }

    /// The first line of a record.
    fn begin(&mut self, line: Line, rows: &mut impl Rows) -> Result<(), String> {
        let text = &line.bytes[..line.text];
        if text.iter().all(|byte| *byte != self.delimiter && byte.is_ascii_whitespace()) {
            self.taken += line.length;
            return Ok(());
        }
        if line.text > MAX_RECORD_BYTES {
            return self.emit(line.length, Vec::new(), Some(too_long()), rows);
        }
        self.scan = Scan::new(self.delimiter);
        self.scan.feed(text);
        if self.scan.is_open() {
            self.scan.line_end(&line.bytes[line.text..]);
            self.hold(line);
            return Ok(());
        }
        let fields = if self.literal && self.scan.sloppy { self.literally(text) } else { self.scan.take() };
        let bad = (fields.len() > MAX_FIELDS).then(too_long);
        self.emit(line.length, fields, bad, rows)
    }

    /// A further line of a record; gives the reason where it is none.
    fn go_on(&mut self, line: &Line, rows: &impl Rows) -> Option<&'static str> {
        if self.open_bytes + line.bytes.len() > MAX_RECORD_BYTES {
            return Some("it would be longer than any record");
        }
        let text = &line.bytes[..line.text];
        // Of a line with a quote only what stands before that is sure.
        let quote = text.iter().position(|byte| *byte == b'"');
        let before: Vec<&[u8]> =
            text[..quote.unwrap_or(text.len())].split(|byte| *byte == self.delimiter).collect();
        let mut alone = Scan::new(self.delimiter);
        alone.feed(text);
        let count = alone.take().len();
        let sure = if quote.is_some() { &before[..before.len() - 1] } else { &before[..] };
        let mut values = sure.to_vec();
        values.resize(count.max(sure.len()), b"");
        if rows.is_row(&values) {
            return Some("the next line is a row by itself");
        }
        self.scan.sloppy = false;
        self.scan.feed(text);
        if self.scan.sloppy {
            return Some("text follows the next quote");
        }
        if self.scan.is_open() {
            self.scan.line_end(&line.bytes[line.text..]);
        }
        None
    }

    fn hold(&mut self, line: Line) {
        self.open_bytes += line.bytes.len();
        self.open.push(line);
    }

    /// The record that was open is whole.
    fn close(&mut self, rows: &mut impl Rows) -> Result<(), String> {
        self.open_bytes = 0;
        let length = self.open.drain(..).map(|line| line.length).sum();
        let fields = self.scan.take();
        let bad = (fields.len() > MAX_FIELDS).then(too_long);
        self.emit(length, fields, bad, rows)
    }

    /// The quote that opens in the first line is not closed: the record is that line, and the others stand for themselves.
    fn give_up(&mut self, why: &str, lines: &mut VecDeque<Line>, rows: &mut impl Rows) -> Result<(), String> {
        self.open_bytes = 0;
        let mut open = std::mem::take(&mut self.open).into_iter();
        let Some(first) = open.next() else { return Ok(()) };
        for line in open.rev() {
            lines.push_front(line);
        }
        let text = &first.bytes[..first.text];
        let fields = self.literally(text);
        let bad = format!("a quote opens in the row and is never closed ({why})");
        self.emit(first.length, fields, (!self.literal).then_some(bad), rows)
    }

    /// The values of a line in which quotes are text.
    fn literally(&self, text: &[u8]) -> Vec<Vec<u8>> {
        text.split(|byte| *byte == self.delimiter).map(<[u8]>::to_vec).collect()
    }

    fn emit(
        &mut self,
        length: u64,
        fields: Vec<Vec<u8>>,
        bad: Option<String>,
        rows: &mut impl Rows,
    ) -> Result<(), String> {
        self.taken += length;
        rows.record(Record { fields, bad, end: self.taken })
    }
}

fn too_long() -> String {
    format!("the row has more than {MAX_RECORD_BYTES} bytes or {MAX_FIELDS} values")
}

/// Where in a record a scan is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At a value's beginning.
    Start,
    /// In a value without quotes, or behind the closing quote of one.
    Plain,
    /// Within quotes.
    Quoted,
    /// Behind a quote within quotes: it closes, or is the first of two that mean one.
    Quote,
}

/// A record under way.
struct Scan {
    delimiter: u8,
    fields: Vec<Vec<u8>>,
    field: Vec<u8>,
    state: State,
    /// Whether text followed a closing quote.
    sloppy: bool,
}

impl Scan {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, fields: Vec::new(), field: Vec::new(), state: State::Start, sloppy: false }
    }

    fn feed(&mut self, text: &[u8]) {
        for &byte in text {
            self.state = match (self.state, byte) {
                (State::Start, b'"') => State::Quoted,
                (State::Quoted, b'"') => State::Quote,
                (State::Quote, b'"') => {
                    self.field.push(b'"');
                    State::Quoted
                }
                (State::Start | State::Plain | State::Quote, byte) if byte == self.delimiter => {
                    if self.fields.len() <= MAX_FIELDS {
                        self.fields.push(std::mem::take(&mut self.field));
                    }
                    State::Start
                }
                (State::Quoted, byte) => {
                    self.field.push(byte);
                    State::Quoted
                }
                (state, byte) => {
                    self.sloppy |= state == State::Quote;
                    self.field.push(byte);
                    State::Plain
                }
            };
        }
    }

    /// Whether a quote is open.
    fn is_open(&self) -> bool {
        self.state == State::Quoted
    }

    /// A line ends within quotes: what ends it is part of the value.
    fn line_end(&mut self, end: &[u8]) {
        self.field.extend_from_slice(end);
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        self.fields.push(std::mem::take(&mut self.field));
        self.state = State::Start;
        std::mem::take(&mut self.fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of two values, the first an address.
    #[derive(Default)]
    struct Two(Vec<Record>);

    impl Rows for Two {
        fn record(&mut self, record: Record) -> Result<(), String> {
            self.0.push(record);
            Ok(())
        }

        fn is_row(&self, fields: &[&[u8]]) -> bool {
            fields.len() == 2 && fields[0].starts_with(b"http")
        }
    }

    fn read(delimiter: u8, text: &str, chunk: usize) -> Vec<Record> {
        let (mut records, mut rows) = (Records::new(delimiter), Two::default());
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
                    (fields.collect(), r.bad.is_some())
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
    fn records_end_where_their_quotes_close() {
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
    fn a_quote_that_is_never_closed_costs_one_row() {
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
                records.iter().map(|r| r.bad.is_some()).collect::<Vec<_>>(),
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
    fn quotes_are_usual_text_between_tabs() {
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
    fn long_records_cost_themselves() {
        let long = "x".repeat(MAX_RECORD_BYTES + 10);
        let records = read(b',', &format!("{long}\nhttp://a,b\n"), 1 << 16);
        assert_eq!(records.iter().map(|r| r.bad.is_some()).collect::<Vec<_>>(), [true, false]);
        // One quote in a list of many rows, none of which could be told from text.
        let lines: String = (0..200_000).map(|n| format!("picture number {n} of many, b\n")).collect();
        let records = read(b',', &format!("a,\"open\n{lines}"), 1 << 16);
        assert_eq!(records.len(), 200_001);
        assert_eq!(records.iter().filter(|r| r.bad.is_some()).count(), 1);
    }
}
