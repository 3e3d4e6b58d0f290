//! Lists of addresses in text: bytes in as they arrive, rows out.

use std::borrow::Cow;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use crate::read::{Columns, ListKind};

/// Longest line of JSON or plain text, and longest record of values, bytes.
const MAX_RECORD_BYTES: usize = 4 << 20;
/// What some programs write before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Most values in a record.
const MAX_FIELDS: usize = 4096;

const URL: [&str; 3] = ["url", "URL", "image_url"];
const CAPTION: [&str; 4] = ["caption", "text", "TEXT", "alt_text"];
const KEY: [&str; 3] = ["key", "__key__", "id"];

/// One row of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRow {
    /// Position in what is parsed, from 0, the row of names not counted.
    pub index: u64,
    /// What the list calls it, else its number within the whole list in nine digits.
    pub key: String,
    /// Where the image is, or what is wrong with the row.
    pub url: Result<String, String>,
    /// What the list says.
    pub caption: Option<String>,
    /// Everything else of the row, a JSON object.
    pub meta: Option<String>,
}

/// A list under way.
pub struct ListParser {
    columns: Columns,
    form: Form,
    at: Position,
}

/// How far a list was read.
#[derive(Clone, Copy, Default)]
struct Position {
    /// Rows of the list before the part that is parsed.
    before: u64,
    /// The next row's index.
    next: u64,
    /// Bytes that were taken.
    bytes: u64,
}

impl Position {
    /// The next row's index and what it is called where the list does not say.
    fn take(&mut self) -> (u64, String) {
        let index = self.next;
        self.next += 1;
        (index, format!("{:09}", self.before + index))
    }
}

/// Takes rows, each with the number of bytes up to its end.
type Sink<'a> = &'a mut dyn FnMut(ListRow, u64);

enum Form {
    Values(Box<Values>),
    Lines { json: bool, line: Vec<u8>, too_long: bool },
}

/// Values between commas or tabs.
struct Values {
    reader: Reader,
    /// The first bytes, until they can be told from a mark of byte order; csv-core knows it only in one piece.
    start: Option<Vec<u8>>,
    output: Vec<u8>,
    ends: Vec<usize>,
    written: usize,
    ended: usize,
    too_long: bool,
    header: Option<Header>,
    /// Bytes up to the end of the row of names.
    names: u64,
}

/// What the columns are.
struct Header {
    names: Vec<String>,
    url: usize,
    caption: Option<usize>,
    key: Option<usize>,
}

impl ListParser {
    /// A parser at the start of a list.
    #[must_use]
    pub fn new(kind: ListKind, columns: Columns) -> Self {
        let values = |delimiter| {
            Form::Values(Box::new(Values {
                reader: ReaderBuilder::new().delimiter(delimiter).build(),
                start: Some(Vec::new()),
                output: vec![0; 4 << 10],
                ends: vec![0; 64],
                written: 0,
                ended: 0,
                too_long: false,
                header: None,
                names: 0,
            }))
        };
        let form = match kind {
            ListKind::Csv => values(b','),
            ListKind::Tsv => values(b'\t'),
            ListKind::JsonLines => Form::Lines { json: true, line: Vec::new(), too_long: false },
            ListKind::Text => Form::Lines { json: false, line: Vec::new(), too_long: false },
        };
        Self { columns, form, at: Position::default() }
    }

    /// The parser of a part of a list, behind `rows` others. First comes the row of names, where the list has one, then
    /// the part.
    #[must_use]
    pub fn behind(self, rows: u64) -> Self {
        Self { at: Position { before: rows, ..self.at }, ..self }
    }

    /// Bytes up to the end of the row of names, once rows were found; 0 where there is none.
    #[must_use]
    pub fn names(&self) -> u64 {
        match &self.form {
            Form::Values(values) => values.names,
            Form::Lines { .. } => 0,
        }
    }

    /// Takes bytes; gives the rows that they complete.
    ///
    /// # Errors
    /// When the list has no column of addresses, or lacks one that was told.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<ListRow>, String> {
        let mut rows = Vec::new();
        self.push_into(bytes, &mut |row, _| rows.push(row))?;
        Ok(rows)
    }

    /// As [`ListParser::push`]; with each row goes the number of bytes up to its end, at which another parser may go on.
    ///
    /// # Errors
    /// As [`ListParser::push`].
    pub fn push_into(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), String> {
        match &mut self.form {
            Form::Values(values) => {
                let bytes = match values.start.take() {
                    None => Cow::Borrowed(bytes),
                    Some(mut start) => {
                        start.extend_from_slice(bytes);
                        if start.len() < BYTE_ORDER_MARK.len() {
                            values.start = Some(start);
                            return Ok(());
                        }
                        let marked = start.starts_with(BYTE_ORDER_MARK);
                        self.at.bytes += if marked { BYTE_ORDER_MARK.len() as u64 } else { 0 };
                        Cow::Owned(if marked { start.split_off(BYTE_ORDER_MARK.len()) } else { start })
                    }
                };
                // To csv-core no bytes are the end.
                if !bytes.is_empty() {
                    values.push(&bytes, &self.columns, &mut self.at, sink)?;
                }
            }
            Form::Lines { json, line, too_long } => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    self.at.bytes += piece.len() as u64;
                    if line.len() + piece.len() > MAX_RECORD_BYTES {
                        *too_long = true;
                        line.clear();
                    }
                    if !*too_long {
                        line.extend_from_slice(piece);
                    }
                    if piece.ends_with(b"\n") {
                        let row = (std::mem::take(line), std::mem::take(too_long));
                        if let Some(row) = of_line(*json, row, &self.columns, &mut self.at) {
                            sink(row, self.at.bytes);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The last row, where the list does not end with a line's end.
    ///
    /// # Errors
    /// As [`ListParser::push`]; a list without a row of names.
    pub fn finish(&mut self) -> Result<Vec<ListRow>, String> {
        let mut rows = Vec::new();
        self.finish_into(&mut |row, _| rows.push(row))?;
        Ok(rows)
    }

    /// As [`ListParser::finish`], into a sink.
    ///
    /// # Errors
    /// As [`ListParser::finish`].
    pub fn finish_into(&mut self, sink: Sink<'_>) -> Result<(), String> {
        match &mut self.form {
            Form::Values(values) => {
                if let Some(start) = values.start.take().filter(|start| !start.is_empty()) {
                    values.push(&start, &self.columns, &mut self.at, sink)?;
                }
                values.push(&[], &self.columns, &mut self.at, sink)?;
                if values.header.is_none() {
                    return Err("the list is empty: a row with the columns' names comes first".into());
                }
            }
            Form::Lines { json, line, too_long } => {
                let row = (std::mem::take(line), std::mem::take(too_long));
                if let Some(row) = of_line(*json, row, &self.columns, &mut self.at) {
                    sink(row, self.at.bytes);
                }
            }
        }
        Ok(())
    }
}

impl Values {
    fn push(
        &mut self,
        mut input: &[u8],
        columns: &Columns,
        at: &mut Position,
        sink: Sink<'_>,
    ) -> Result<(), String> {
        let at_end = input.is_empty();
        loop {
            let (result, read, written, ended) = self.reader.read_record(
                input,
                &mut self.output[self.written..],
                &mut self.ends[self.ended..],
            );
            input = &input[read..];
            at.bytes += read as u64;
            self.written += written;
            self.ended += ended;
            match result {
                ReadRecordResult::InputEmpty => return Ok(()),
                ReadRecordResult::End => return Ok(()),
                ReadRecordResult::OutputFull if self.output.len() < MAX_RECORD_BYTES => {
                    self.output.resize(self.output.len() * 2, 0);
                }
                ReadRecordResult::OutputEndsFull if self.ends.len() < MAX_FIELDS => {
                    self.ends.resize(self.ends.len() * 2, 0);
                }
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    self.too_long = true;
                    (self.written, self.ended) = (0, 0);
                }
                ReadRecordResult::Record => {
                    self.record(columns, at, sink)?;
                    (self.written, self.ended, self.too_long) = (0, 0, false);
                    if input.is_empty() && !at_end {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn record(&mut self, columns: &Columns, at: &mut Position, sink: Sink<'_>) -> Result<(), String> {
        let mut from = 0;
        let fields = self.ends[..self.ended].iter().map(|end| {
            let field = String::from_utf8_lossy(&self.output[from..*end]).into_owned();
            from = *end;
            field
        });
        let fields: Vec<String> = if self.too_long { Vec::new() } else { fields.collect() };
        let Some(header) = &self.header else {
            if self.too_long {
                return Err("the row of names is too long: is this a list?".into());
            }
            self.header = Some(Header::new(fields, columns)?);
            self.names = at.bytes;
            return Ok(());
        };
        let bad = if self.too_long {
            Some(format!("the row has more than {MAX_RECORD_BYTES} bytes or {MAX_FIELDS} values"))
        } else if fields.len() != header.names.len() {
            Some(format!("the row has {} values, the row of names {}", fields.len(), header.names.len()))
        } else {
            None
        };
        sink(header.row(at.take(), fields, bad), at.bytes);
        Ok(())
    }
}

impl Header {
    fn new(names: Vec<String>, columns: &Columns) -> Result<Self, String> {
        let names: Vec<String> = names.into_iter().map(|name| name.trim().to_owned()).collect();
        let find = |told: &Option<String>, key: &str, usual: &[&str]| match told {
            Some(told) => match names.iter().position(|name| name == told) {
                Some(at) => Ok(Some(at)),
                None => Err(format!("no column `{told}` ({key}); there are: {}", names.join(", "))),
            },
            None => Ok(usual.iter().find_map(|usual| names.iter().position(|name| name == usual))),
        };
        let url = find(&columns.url, "input.url_column", &URL)?;
        let caption = find(&columns.caption, "input.caption_column", &CAPTION)?;
        let key = find(&columns.key, "input.key_column", &KEY)?;
        let Some(url) = url else { return Err(no_url(&names)) };
        Ok(Self { names, url, caption, key })
    }

    fn row(&self, (index, number): (u64, String), mut fields: Vec<String>, bad: Option<String>) -> ListRow {
        let Some(why) = bad else {
            let mut take = |at: usize| std::mem::take(&mut fields[at]);
            let url = take(self.url);
            let caption = self.caption.map(&mut take).filter(|text| !text.is_empty());
            let key = self.key.map(take).filter(|key| !key.is_empty());
            let used = [Some(self.url), self.caption, self.key];
            let others =
                self.names.iter().zip(fields).enumerate().filter(|(at, _)| !used.contains(&Some(*at)));
            let meta: Map<String, Value> =
                others.map(|(_, (name, field))| (name.clone(), Value::String(field))).collect();
            let meta = (!meta.is_empty()).then(|| Value::Object(meta).to_string());
            return ListRow { index, key: key.unwrap_or(number), url: Ok(url), caption, meta };
        };
        ListRow { index, key: number, url: Err(why), caption: None, meta: None }
    }
}

fn no_url(names: &[String]) -> String {
    format!("no column of addresses; there are: {}. Name it with input.url_column", names.join(", "))
}

/// A line's row; none for a blank line.
fn of_line(
    json: bool,
    (line, too_long): (Vec<u8>, bool),
    columns: &Columns,
    at: &mut Position,
) -> Option<ListRow> {
    let text = String::from_utf8_lossy(&line);
    let text = text.trim().trim_start_matches('\u{feff}');
    if text.is_empty() && !too_long {
        return None;
    }
    let (index, number) = at.take();
    let bad = |why: String| ListRow { index, key: number.clone(), url: Err(why), caption: None, meta: None };
    if too_long {
        return Some(bad(format!("the line has more than {MAX_RECORD_BYTES} bytes")));
    }
    if !json {
        return Some(ListRow { url: Ok(text.to_owned()), ..bad(String::new()) });
    }
    let mut object = match serde_json::from_str(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Some(bad("the line is no JSON object".into())),
        Err(error) => return Some(bad(format!("the line is no JSON: {error}"))),
    };
    let mut field = |told: &Option<String>, usual: &[&str]| {
        let names = told.as_deref().map_or_else(|| usual.to_vec(), |told| vec![told]);
        let name = names
            .into_iter()
            .find(|name| object.get(*name).is_some_and(|v| v.is_string() || v.is_number()))?;
        match object.shift_remove(name)? {
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    };
    let url = field(&columns.url, &URL);
    let caption = field(&columns.caption, &CAPTION).filter(|text| !text.is_empty());
    let key = field(&columns.key, &KEY).filter(|key| !key.is_empty());
    let names = || object.keys().cloned().collect::<Vec<_>>();
    let url = url.ok_or_else(|| no_url(&names()));
    let meta = (!object.is_empty()).then(|| Value::Object(object.clone()).to_string());
    Some(ListRow { index, key: key.unwrap_or(number), url, caption, meta })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: ListKind, text: &str, chunk: usize) -> Result<Vec<ListRow>, String> {
        let mut parser = ListParser::new(kind, Columns::default());
        let mut rows = Vec::new();
        for piece in text.as_bytes().chunks(chunk) {
            rows.extend(parser.push(piece)?);
        }
        rows.extend(parser.finish()?);
        Ok(rows)
    }

    fn row(index: u64, key: &str, url: &str, caption: Option<&str>, meta: Option<&str>) -> ListRow {
        let text = |t: Option<&str>| t.map(str::to_owned);
        ListRow { index, key: key.into(), url: Ok(url.into()), caption: text(caption), meta: text(meta) }
    }

    #[test]
    fn all_kinds_give_the_same_rows_in_any_chunks() {
        let csv = "\u{feff}url,caption,id,w\nhttp://a/1.jpg,\"a cat,\nasleep \"\"here\"\"\",k1,10\r\nhttp://a/2.jpg,,,20";
        let json = "{\"url\":\"http://a/1.jpg\",\"caption\":\"a cat,\\nasleep \\\"here\\\"\",\"id\":\"k1\",\"w\":\"10\"}\n\n{\"url\":\"http://a/2.jpg\",\"w\":\"20\"}";
        let wanted = vec![
            row(0, "k1", "http://a/1.jpg", Some("a cat,\nasleep \"here\""), Some("{\"w\":\"10\"}")),
            row(1, "000000001", "http://a/2.jpg", None, Some("{\"w\":\"20\"}")),
        ];
        for chunk in 1..40 {
            assert_eq!(parse(ListKind::Csv, csv, chunk).as_ref(), Ok(&wanted), "csv, chunks of {chunk}");
            assert_eq!(
                parse(ListKind::JsonLines, json, chunk).as_ref(),
                Ok(&wanted),
                "json, chunks of {chunk}"
            );
        }
        let tsv = "url\tTEXT\nhttp://a/1.jpg\ta, cat\n";
        assert_eq!(
            parse(ListKind::Tsv, tsv, 3),
            Ok(vec![row(0, "000000000", "http://a/1.jpg", Some("a, cat"), None)])
        );
        let text = "http://a/1.jpg\n\n http://a/2.jpg ";
        let rows = vec![
            row(0, "000000000", "http://a/1.jpg", None, None),
            row(1, "000000001", "http://a/2.jpg", None, None),
        ];
        assert_eq!(parse(ListKind::Text, text, 4), Ok(rows));
    }

    #[test]
    fn a_list_may_be_parsed_in_parts_that_begin_at_any_row() {
        let csv = "\u{feff}url,caption,id\r\nhttp://a/1.jpg,\"a cat,\r\nasleep\",k1\r\n\r\nhttp://a/2.jpg,,\r\na,b,c,d\r\nhttp://a/3.jpg,x,\r\nhttp://a/4.jpg,,k4";
        let tsv = "url\tcaption\na\tb\nc\td\ne\tf\n";
        let json = "{\"url\":\"a\"}\n\n[]\n{\"url\":\"b\",\"id\":\"k\"}\r\n{\"url\":\"c\"}";
        let text = "http://a/1.jpg\n\n http://a/2.jpg \r\nhttp://a/3.jpg\n\n";
        let lists =
            [(ListKind::Csv, csv), (ListKind::Tsv, tsv), (ListKind::JsonLines, json), (ListKind::Text, text)];
        for (kind, list) in lists {
            let wanted = parse(kind, list, 1000).expect("a list");
            for chunk in 1..20 {
                let mut whole = ListParser::new(kind, Columns::default());
                let mut ends = Vec::new();
                let mut sink = |row: ListRow, end: u64| ends.push((row, end as usize));
                for piece in list.as_bytes().chunks(chunk) {
                    whole.push_into(piece, &mut sink).expect("a list");
                }
                whole.finish_into(&mut sink).expect("a list");
                let names = whole.names() as usize;
                assert!(ends.iter().map(|(row, _)| row).eq(&wanted), "{kind:?}, chunks of {chunk}");
                for (at, (_, end)) in ends.iter().enumerate() {
                    let mut part = ListParser::new(kind, Columns::default()).behind(at as u64 + 1);
                    let mut rows = part.push(&list.as_bytes()[..names]).expect("names");
                    rows.extend(part.push(&list.as_bytes()[*end..]).expect("rows"));
                    rows.extend(part.finish().expect("rows"));
                    let later = wanted[at + 1..].iter().cloned();
                    let later: Vec<_> =
                        later.map(|row| ListRow { index: row.index - at as u64 - 1, ..row }).collect();
                    assert_eq!(rows, later, "{kind:?}, chunks of {chunk}, from row {}", at + 1);
                }
            }
        }
    }

    #[test]
    fn bad_rows_stay_rows_and_bad_lists_say_what_they_have() {
        let rows = parse(ListKind::Csv, "url,caption\nhttp://a,b,c\nhttp://a,b\n", 5).expect("a list");
        assert!(rows[0].url.as_ref().is_err_and(|why| why.contains("3 values")), "{rows:?}");
        assert_eq!((rows.len(), rows[1].index), (2, 1));
        let rows = parse(ListKind::JsonLines, "[1]\n{\n{\"link\":\"x\"}\n", 100).expect("a list");
        for (row, word) in rows.iter().zip(["no JSON object", "no JSON", "there are: link"]) {
            assert!(row.url.as_ref().is_err_and(|why| why.contains(word)), "{row:?}");
        }
        assert_eq!(rows.len(), 3);
        let error = parse(ListKind::Csv, "link,caption\nx,y\n", 100).expect_err("no addresses");
        assert!(error.contains("there are: link, caption") && error.contains("input.url_column"), "{error}");
        assert!(parse(ListKind::Csv, "", 100).expect_err("empty").contains("empty"));
        let mut long = "x".repeat(MAX_RECORD_BYTES + 100);
        long.push_str("\nhttp://a\n");
        let rows = parse(ListKind::Text, &long, 1 << 16).expect("a list");
        assert!(rows[0].url.is_err() && rows[1].url.as_deref() == Ok("http://a"), "{}", rows.len());
        let rows = parse(ListKind::Csv, &format!("url,caption\n{}", &long[..MAX_RECORD_BYTES + 50]), 1 << 16)
            .expect("a list");
        assert!(rows[0].url.as_ref().is_err_and(|why| why.contains("more than")), "{}", rows.len());
    }
}
