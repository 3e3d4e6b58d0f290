//! JSON as other programs write it: what Python's `json` reads is read, and what is handed on is valid.
//!
//! Beside valid JSON: `NaN`, `Infinity` and numbers beyond double precision (they become `null`), lone surrogates (U+FFFD),
//! control characters inside strings, a byte-order mark, UTF-16 with a mark. Read without recursion, so that no depth harms.

use std::ops::Range;

use serde_json::Value;

/// Deepest nesting that is read: as deep as Python's `json` goes by default.
pub const MAX_DEPTH: usize = 1000;

/// A document, and where the fields of its object are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// As it was, where that was valid.
    verbatim: Option<String>,
    /// Valid, without white space between values.
    compact: String,
    /// Of an object: its keys, and where their values are in `compact`.
    fields: Vec<(String, Range<usize>)>,
    is_object: bool,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// What Python does not read either, in words.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let (text, mut repaired) = decode(bytes);
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        let mut scan = Scan::new(&text);
        scan.document()?;
        repaired |= scan.repaired;
        let Scan { out, fields, is_object, .. } = scan;
        let fields = fields
            .into_iter()
            .map(|(key, value)| {
                let name = serde_json::from_str::<String>(&out[key]).map_err(|e| e.to_string())?;
                Ok((name, value))
            })
            .collect::<Result<_, String>>()?;
        let verbatim = (!repaired).then_some(text);
        Ok(Self { verbatim, compact: out, fields, is_object })
    }

    /// Whether it is an object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.is_object
    }

    /// The document, as it was where that is valid.
    #[must_use]
    pub fn into_text(self) -> String {
        self.verbatim.unwrap_or(self.compact)
    }

    /// The object with one field more, where it has none of that name. `value` must be JSON.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> String {
        if !self.is_object || self.names().any(|there| there == name) {
            return self.into_text();
        }
        let comma = if self.fields.is_empty() { "" } else { "," };
        format!("{{{}:{value}{comma}{}", Value::from(name), &self.compact[1..])
    }

    /// Names of the object's fields, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.fields.iter().map(|(name, _)| name.as_str())
    }

    /// The value of the field at a place, as JSON.
    #[must_use]
    pub fn value(&self, at: usize) -> &str {
        self.fields.get(at).map_or("null", |(_, value)| &self.compact[value.clone()])
    }

    /// The object without some of its fields; `None` where nothing is left. A name that occurs again is there once, with its
    /// last value.
    #[must_use]
    pub fn without(&self, used: &[usize]) -> Option<String> {
        let last = |at: usize| !self.fields[at + 1..].iter().any(|(name, _)| *name == self.fields[at].0);
        let rest: Vec<String> = (0..self.fields.len())
            .filter(|at| !used.contains(at) && last(*at))
            .map(|at| format!("{}:{}", Value::from(self.fields[at].0.as_str()), self.value(at)))
            .collect();
        (!rest.is_empty()).then(|| format!("{{{}}}", rest.join(",")))
    }
}

/// Text, and whether it had to be repaired for that.
fn decode(bytes: &[u8]) -> (String, bool) {
    let wide = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = rest.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => (wide(rest, u16::from_le_bytes), true),
        [0xfe, 0xff, rest @ ..] => (wide(rest, u16::from_be_bytes), true),
        _ => (String::from_utf8_lossy(bytes).into_owned(), false),
    }
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// A value, or the end of an array that has none yet.
    ValueOrEnd,
    Key,
    /// A key, or the end of an object that has none yet.
    KeyOrEnd,
    CommaOrEnd,
    Nothing,
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    out: String,
    /// Closing brackets that are due, innermost last.
    open: Vec<u8>,
    fields: Vec<(Range<usize>, Range<usize>)>,
    /// The outer object's key whose value is being read, and where that begins.
    field: Option<(Range<usize>, usize)>,
    is_object: bool,
    repaired: bool,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            out: String::with_capacity(text.len()),
            open: Vec::new(),
            fields: Vec::new(),
            field: None,
            is_object: false,
            repaired: false,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn wrong(&self, what: &str) -> String {
        format!("{what} at byte {}", self.at)
    }

    fn document(&mut self) -> Result<(), String> {
        let mut next = Next::Value;
        self.skip_space();
        if self.peek().is_none() {
            return Err("it is empty".into());
        }
        loop {
            self.skip_space();
            next = match (next, self.peek()) {
                (Next::Nothing, None) => return Ok(()),
                (Next::Nothing, Some(_)) => return Err(self.wrong("more text behind the document")),
                (_, None) => return Err("it ends too early".into()),
                (Next::ValueOrEnd, Some(b']')) | (Next::KeyOrEnd, Some(b'}')) => self.close(),
                (Next::CommaOrEnd, Some(c)) if self.open.last() == Some(&c) => self.close(),
                (Next::CommaOrEnd, Some(b',')) => {
                    self.take(1);
                    if self.open.last() == Some(&b'}') { Next::Key } else { Next::Value }
                }
                (Next::CommaOrEnd, _) => return Err(self.wrong("no comma and no end")),
                (Next::Key | Next::KeyOrEnd, Some(b'"')) => self.key()?,
                (Next::Key | Next::KeyOrEnd, _) => return Err(self.wrong("no key")),
                (Next::Value | Next::ValueOrEnd, Some(c)) => self.value(c)?,
            };
        }
    }

    fn take(&mut self, bytes: usize) {
        self.out.push_str(&self.text[self.at..self.at + bytes]);
        self.at += bytes;
    }

    fn key(&mut self) -> Result<Next, String> {
        let begin = self.out.len();
        self.string()?;
        let key = begin..self.out.len();
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.wrong("no colon"));
        }
        self.take(1);
        if self.open.len() == 1 {
            self.field = Some((key, self.out.len()));
        }
        Ok(Next::Value)
    }

    fn value(&mut self, first: u8) -> Result<Next, String> {
        match first {
            b'{' | b'[' => {
                if self.open.len() == MAX_DEPTH {
                    return Err(format!("it is nested deeper than {MAX_DEPTH}"));
                }
                self.is_object |= self.open.is_empty() && first == b'{';
                self.open.push(if first == b'{' { b'}' } else { b']' });
                self.take(1);
                return Ok(if first == b'{' { Next::KeyOrEnd } else { Next::ValueOrEnd });
            }
            b'"' => self.string()?,
            _ => self.word()?,
        }
        Ok(self.ended())
    }

    /// A value has ended.
    fn ended(&mut self) -> Next {
        if self.open.len() == 1
            && let Some((key, begin)) = self.field.take()
        {
            self.fields.push((key, begin..self.out.len()));
        }
        if self.open.is_empty() { Next::Nothing } else { Next::CommaOrEnd }
    }

    fn close(&mut self) -> Next {
        self.take(1);
        self.open.pop();
        self.ended()
    }

    /// A number, a constant, or what Python writes for numbers that are none.
    fn word(&mut self) -> Result<(), String> {
        let rest = &self.text[self.at..];
        let length =
            rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')).count();
        let word = &rest[..length];
        let is_number = is_number(word);
        let kept = match word {
            "true" | "false" | "null" => word,
            "NaN" | "Infinity" | "-Infinity" => "null",
            _ if is_number && is_finite(word) => word,
            _ if is_number => "null",
            _ => return Err(self.wrong("no value")),
        };
        self.repaired |= kept != word;
        self.out.push_str(kept);
        self.at += length;
        Ok(())
    }

    /// From its opening quote to its closing one.
    fn string(&mut self) -> Result<(), String> {
        self.take(1);
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.bytes().take_while(|b| !matches!(b, b'"' | b'\\' | 0..=0x1f)).count();
            self.take(plain);
            match self.peek() {
                None => return Err("it ends inside a string".into()),
                Some(b'"') => {
                    self.take(1);
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(control) => {
                    self.out.push_str(&format!("\\u{control:04x}"));
                    self.at += 1;
                    self.repaired = true;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        let rest = &self.text.as_bytes()[self.at..];
        match rest.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.take(2),
            Some(b'u') => {
                let unit = hex(rest).ok_or_else(|| self.wrong("no escape"))?;
                let pair = (0xd800..0xdc00).contains(&unit)
                    && rest.get(6..8) == Some(b"\\u")
                    && hex(&rest[6..]).is_some_and(|low| (0xdc00..0xe000).contains(&low));
                if pair {
                    self.take(12);
                } else if (0xd800..0xe000).contains(&unit) {
                    self.out.push_str("\\ufffd");
                    self.at += 6;
                    self.repaired = true;
                } else {
                    self.take(6);
                }
            }
            _ => return Err(self.wrong("no escape")),
        }
        Ok(())
    }
}

/// The number of a `\uHHHH` at the beginning.
fn hex(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(2..6)?;
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

fn is_number(word: &str) -> bool {
    let rest = word.strip_prefix('-').unwrap_or(word);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (rest, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

/// Whole numbers may have any length: they are numbers for Python.
fn is_finite(number: &str) -> bool {
    !number.contains(['e', 'E', '.']) || number.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Document {
        Document::read(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn valid_json_stays_as_it_is() {
        for text in
            ["{\"a\": [1, 2.50],\n \"b\": {\"c\": null}}", "[]", " 1e5 ", "\"\\ud83d\\ude00 \\u00e9\"", "{}"]
        {
            assert_eq!(read(text).into_text(), text);
            assert!(serde_json::from_str::<Value>(text).is_ok());
        }
    }

    #[test]
    fn what_python_writes_becomes_valid() {
        for (text, wanted) in [
            ("{\"a\": NaN, \"b\": [-Infinity, Infinity, 1e400]}", "{\"a\":null,\"b\":[null,null,null]}"),
            ("\u{feff}{\"a\": 1}", "{\"a\": 1}"),
            ("\"x \\ud83d\"", "\"x \\ufffd\""),
            ("\"\\ude00\\ud83d\\u0041\"", "\"\\ufffd\\ufffd\\u0041\""),
            ("\"a\nb\"", "\"a\\u000ab\""),
        ] {
            let text = read(text).into_text();
            assert_eq!(text, wanted);
            serde_json::from_str::<Value>(&text).expect("valid");
        }
        let digits = "1".repeat(400);
        assert_eq!(read(&digits).into_text(), digits);
        let utf16: Vec<u8> = "\u{feff}{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(Document::read(&utf16).expect("UTF-16").into_text(), "{\"a\":1}");
    }

    #[test]
    fn fields_are_those_of_the_outer_object_and_depth_does_no_harm() {
        let deep = format!("{{\"a\":{}{},\"caption\":\"x\"}}", "[".repeat(900), "]".repeat(900));
        let document = read(&deep);
        assert_eq!(document.names().collect::<Vec<_>>(), ["a", "caption"]);
        assert_eq!(document.value(1), "\"x\"");
        assert_eq!(document.clone().into_text(), deep);
        let deeper = "[".repeat(100_000);
        assert!(Document::read(deeper.as_bytes()).expect_err("too deep").contains("deeper"));
        let document = read("{\"a\": {\"b\": 1}, \"\\u0062\": [ 2 ], \"a\": 3}");
        assert_eq!(document.without(&[]).as_deref(), Some("{\"b\":[2],\"a\":3}"));
        assert_eq!(document.without(&[1]).as_deref(), Some("{\"a\":3}"));
        assert_eq!(document.without(&[0, 1, 2]), None);
        assert_eq!(document.clone().with("c", "[1]"), "{\"c\":[1],\"a\":{\"b\":1},\"\\u0062\":[2],\"a\":3}");
        assert_eq!(read("{ }").with("c", "1"), "{\"c\":1}");
        assert_eq!(read("{\"c\": 2}").with("c", "1"), "{\"c\": 2}");
        assert!(document.is_object() && !read("[{\"a\":1}]").is_object());
    }

    #[test]
    fn what_is_no_json_says_why() {
        for text in [
            "",
            " ",
            "{",
            "{\"a\"}",
            "{\"a\":1,}",
            "[1 2]",
            "{a:1}",
            "01",
            "1.",
            "-",
            "nan",
            "\"a",
            "\"\\x\"",
            "1 2",
            "]",
        ] {
            Document::read(text.as_bytes()).map(|d| panic!("{text:?}: {d:?}")).expect_err("no JSON");
        }
    }
}
