//! Lists of addresses in text: bytes in as they arrive, rows out.

use recaption_schemas::name_text;
use serde_json::{Map, Value};

use super::delimited::{MAX_RECORD_BYTES, Record, Records, Rows};
use crate::{
    json::Document,
    label::Label,
    read::{Columns, ListKind},
    told::{self, CAPTION, KEY, URL},
};

/// One row of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRow {
    /// Position in what is parsed, from 0, the row of names not counted.
    pub index: u64,
    /// What a column of keys calls it, else its number within the whole list in nine digits.
    pub label: Label,
    /// Where the image is, or what is wrong with the row.
    pub url: Result<String, String>,
    /// What the list says.
    pub captions: Vec<String>,
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
    fn take(&mut self) -> (u64, Label) {
        let index = self.next;
        self.next += 1;
        (index, Label::Derived(format!("{:09}", self.before + index)))
    }
}

/// Takes rows, each with the number of bytes up to its end.
type Sink<'a> = &'a mut dyn FnMut(ListRow, u64);

enum Form {
    Values(Box<(Records, Values)>),
    Lines { json: bool, line: Vec<u8>, too_long: bool, used: Option<String> },
}

/// What is known of a list of values.
#[derive(Default)]
struct Values {
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
        let values = |delimiter| Form::Values(Box::new((Records::new(delimiter), Values::default())));
        let form = match kind {
            ListKind::Csv => values(b','),
            ListKind::Tsv => values(b'\t'),
            ListKind::JsonLines => Form::Lines { json: true, line: Vec::new(), too_long: false, used: None },
            ListKind::Text => Form::Lines { json: false, line: Vec::new(), too_long: false, used: None },
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
            Form::Values(values) => values.1.names,
            Form::Lines { .. } => 0,
        }
    }

    /// What is used of a list of values, and what is not read as one of these and so becomes the rows' `meta`.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        let header = match &self.form {
            Form::Values(values) => values.1.header.as_ref()?,
            Form::Lines { used, .. } => return used.clone(),
        };
        let name = |at: Option<usize>| at.map_or("none", |at| header.names[at].as_str());
        let others = header.others().map(|at| header.names[at].as_str()).collect::<Vec<_>>();
        Some(format!(
            "address={} caption={} key={} meta={}",
            header.names[header.url],
            name(header.caption),
            header.key.map_or("row number", |at| &header.names[at]),
            if others.is_empty() { "none".to_owned() } else { others.join(", ") }
        ))
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
            Form::Values(form) => {
                let (records, values) = form.as_mut();
                records.push(bytes, &mut ValueRows { values, columns: &self.columns, at: &mut self.at, sink })
            }
            Form::Lines { json, line, too_long, used } => {
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
                        if let Some(row) = of_line(*json, row, (&self.columns, used), &mut self.at) {
                            sink(row, self.at.bytes);
                        }
                    }
                }
                Ok(())
            }
        }
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

    /// The rows that are whole where the list breaks off: what has arrived of a further line is forgotten.
    #[must_use]
    pub fn finish_broken(&mut self) -> Vec<ListRow> {
        match &mut self.form {
            Form::Values(form) => form.0.drop_line(),
            Form::Lines { line, too_long, .. } => {
                line.clear();
                *too_long = false;
            }
        }
        let mut rows = Vec::new();
        // A list that breaks off in its row of names has no rows.
        let _ = self.finish_into(&mut |row, _| rows.push(row));
        rows
    }

    /// As [`ListParser::finish`], into a sink.
    ///
    /// # Errors
    /// As [`ListParser::finish`].
    pub fn finish_into(&mut self, sink: Sink<'_>) -> Result<(), String> {
        match &mut self.form {
            Form::Values(form) => {
                let (records, values) = form.as_mut();
                let rows = &mut ValueRows { values, columns: &self.columns, at: &mut self.at, sink };
                records.finish(rows)?;
                if values.header.is_none() {
                    return Err("the list is empty: a row with the columns' names comes first".into());
                }
            }
            Form::Lines { json, line, too_long, used } => {
                let row = (std::mem::take(line), std::mem::take(too_long));
                if let Some(row) = of_line(*json, row, (&self.columns, used), &mut self.at) {
                    sink(row, self.at.bytes);
                }
            }
        }
        Ok(())
    }
}

/// Takes the records of a list.
struct ValueRows<'a, 'b> {
    values: &'a mut Values,
    columns: &'a Columns,
    at: &'a mut Position,
    sink: Sink<'b>,
}

impl Rows for ValueRows<'_, '_> {
    fn record(&mut self, Record { fields, bad, end }: Record) -> Result<(), String> {
        self.at.bytes = end;
        let Some(header) = &self.values.header else {
            if let Some(why) = bad {
                return Err(format!("the row of names cannot be read: {why}; is this a list?"));
            }
            let names = fields.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned());
            self.values.header = Some(Header::new(names.collect(), self.columns)?);
            self.values.names = end;
            return Ok(());
        };
        let bad = bad.or_else(|| {
            let (here, names) = (fields.len(), header.names.len());
            (here != names).then(|| format!("the row has {here} values, the row of names {names}"))
        });
        (self.sink)(header.row(self.at.take(), fields, bad), end);
        Ok(())
    }

    fn is_row(&self, fields: &[&[u8]]) -> bool {
        let Some(header) = &self.values.header else { return false };
        let url = fields.get(header.url).map(|url| url.trim_ascii_start()).unwrap_or_default();
        let begins = |with: &[u8]| url.get(..with.len()).is_some_and(|url| url.eq_ignore_ascii_case(with));
        fields.len() == header.names.len() && (begins(b"http://") || begins(b"https://"))
    }
}

/// The place of a column that was told, as it is written or else in any case.
pub(crate) fn told_column<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    told: &str,
    key: &str,
) -> Result<usize, String> {
    told::find(names.clone(), &[told]).ok_or_else(|| {
        format!("no column `{told}` ({key}); there are: {}", names.collect::<Vec<_>>().join(", "))
    })
}

impl Header {
    fn new(names: Vec<String>, columns: &Columns) -> Result<Self, String> {
        let all = || names.iter().map(String::as_str);
        let find = |told: &Option<String>, key: &str, usual: &[&str]| match told {
            Some(told) => told_column(all(), told, key).map(Some),
            None => Ok(told::find(all(), usual)),
        };
        let url = find(&columns.url, "input.url_column", &URL)?;
        let caption = find(&columns.caption, "input.caption_column", &CAPTION)?;
        let key = find(&columns.key, "input.key_column", &KEY)?;
        let Some(url) = url else { return Err(no_url(&names)) };
        Ok(Self { names, url, caption, key })
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let used = [Some(self.url), self.caption, self.key];
        (0..self.names.len()).filter(move |at| !used.contains(&Some(*at)))
    }

    fn row(&self, (index, label): (u64, Label), fields: Vec<Vec<u8>>, bad: Option<String>) -> ListRow {
        if let Some(why) = bad {
            return ListRow { index, label, url: Err(why), captions: Vec::new(), meta: None };
        }
        let text = |at: usize| String::from_utf8_lossy(&fields[at]).into_owned();
        let key = self.key.map(|at| name_text(&fields[at])).filter(|key| !key.trim().is_empty());
        let meta: Map<String, Value> =
            self.others().map(|at| (self.names[at].clone(), Value::String(text(at)))).collect();
        ListRow {
            index,
            label: key.map_or(label, Label::Declared),
            url: Ok(text(self.url)),
            captions: self.caption.map(text).filter(|text| !text.trim().is_empty()).into_iter().collect(),
            meta: (!meta.is_empty()).then(|| Value::Object(meta).to_string()),
        }
    }
}

fn no_url(names: &[String]) -> String {
    format!("no column of addresses; there are: {}. Name it with input.url_column", names.join(", "))
}

/// A line's row; none for a blank line.
fn of_line(
    json: bool,
    (line, too_long): (Vec<u8>, bool),
    (columns, used): (&Columns, &mut Option<String>),
    at: &mut Position,
) -> Option<ListRow> {
    let text = String::from_utf8_lossy(&line);
    let text = text.trim().trim_start_matches('\u{feff}');
    if text.is_empty() && !too_long {
        return None;
    }
    let (index, label) = at.take();
    let bad = |why: String| ListRow {
        index,
        label: label.clone(),
        url: Err(why),
        captions: Vec::new(),
        meta: None,
    };
    if too_long {
        return Some(bad(format!("the line has more than {MAX_RECORD_BYTES} bytes")));
    }
    if !json {
        used.get_or_insert_with(|| "address=each line caption=none key=row number".to_owned());
        return Some(ListRow { url: Ok(text.to_owned()), ..bad(String::new()) });
    }
    let object = match Document::read(text.as_bytes()) {
        Ok(object) if object.is_object() => object,
        Ok(_) => return Some(bad("the line is no JSON object".into())),
        Err(error) => return Some(bad(format!("the line is no JSON: {error}"))),
    };
    Some(of_object(&object, (index, label), (columns, used)))
}

/// The row that an object is.
fn of_object(
    object: &Document,
    (index, label): (u64, Label),
    (columns, said): (&Columns, &mut Option<String>),
) -> ListRow {
    let find = |told: &Option<String>, usual: &[&str], fits: &dyn Fn(&str) -> bool| {
        let names = told.as_deref().map_or_else(|| usual.to_vec(), |told| vec![told]);
        told::find_all(object.names(), &names).find(|at| fits(object.value(*at)))
    };
    let is_text = |value: &str| told::text_of(value).is_some();
    let url = find(&columns.url, &URL, &is_text);
    let caption = find(&columns.caption, &CAPTION, &|value| !told::captions_of(value).is_empty());
    let key = find(&columns.key, &KEY, &is_text);
    let text = |at: usize| told::text_of(object.value(at));
    let captions = caption.map(|at| told::captions_of(object.value(at))).unwrap_or_default();
    // Of several captions one is taken; all of them stay in what is known of the row.
    let taken = caption.filter(|_| captions.len() == 1);
    let used: Vec<usize> = [url, taken, key].into_iter().flatten().collect();
    said.get_or_insert_with(|| {
        let name = |at: Option<usize>| at.and_then(|at| object.names().nth(at)).unwrap_or("none");
        let key = key.map_or("row number", |key| name(Some(key)));
        format!("address={} caption={} key={key} meta=the other fields", name(url), name(caption))
    });
    let names = || object.names().map(str::to_owned).collect::<Vec<_>>();
    let declared = key.and_then(text).filter(|key| !key.trim().is_empty());
    ListRow {
        index,
        label: declared.map_or(label, Label::Declared),
        url: url.and_then(text).ok_or_else(|| no_url(&names())),
        captions,
        meta: object.without(&used),
    }
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
        let number = format!("{index:09}");
        let label = if key == number { Label::Derived(number) } else { Label::Declared(key.into()) };
        let captions = caption.into_iter().map(str::to_owned).collect();
        ListRow { index, label, url: Ok(url.into()), captions, meta: meta.map(str::to_owned) }
    }

    #[test]
    fn all_kinds_give_the_same_rows_in_any_chunks() {
        let csv = "\u{feff}url,caption,key,w\nhttp://a/1.jpg,\"a cat,\nasleep \"\"here\"\"\",k1,10\r\nhttp://a/2.jpg,,,20";
        let json = "{\"url\":\"http://a/1.jpg\",\"caption\":\"a cat,\\nasleep \\\"here\\\"\",\"key\":\"k1\",\"w\":\"10\"}\n\n{\"url\":\"http://a/2.jpg\",\"w\":\"20\"}";
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
        let csv = "\u{feff}url,caption,key\r\nhttp://a/1.jpg,\"a cat,\r\nasleep\",k1\r\n\r\nhttp://a/2.jpg,,\r\na,b,c,d\r\nhttp://a/3.jpg,x,\r\nhttp://a/4.jpg,,k4";
        let tsv = "url\tcaption\na\tb\nc\td\ne\tf\n";
        let json = "{\"url\":\"a\"}\n\n[]\n{\"url\":\"b\",\"key\":\"k\"}\r\n{\"url\":\"c\"}";
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
