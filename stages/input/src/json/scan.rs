//! The scanner: a state machine over the bytes of a document.

use std::ops::Range;

/// Deepest nesting that is parsed: the default limit of Python's `json`.
const MAX_DEPTH: usize = 1000;

/// What may follow.
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

/// Scans a document and copies it to `out`, repaired where needed.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    pub(super) out: String,
    /// Closing brackets that are expected, innermost last.
    open: Vec<u8>,
    pub(super) fields: Vec<(Range<usize>, Range<usize>)>,
    /// The outer object's key whose value is being scanned, and where the value begins.
    field: Option<(Range<usize>, usize)>,
    pub(super) is_object: bool,
    pub(super) repaired: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
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

    fn error(&self, what: &str) -> String {
        format!("{what} at byte {}", self.at)
    }

    pub(super) fn scan_document(&mut self) -> Result<(), String> {
        let mut next = Next::Value;
        self.skip_space();
        if self.peek().is_none() {
            return Err("it is empty".into());
        }
        loop {
            self.skip_space();
            next = match (next, self.peek()) {
                (Next::Nothing, None) => return Ok(()),
                (Next::Nothing, Some(_)) => return Err(self.error("text after the document")),
                (_, None) => return Err("it ends too early".into()),
                (Next::ValueOrEnd, Some(b']')) | (Next::KeyOrEnd, Some(b'}')) => self.close(),
                (Next::CommaOrEnd, Some(c)) if self.open.last() == Some(&c) => self.close(),
                (Next::CommaOrEnd, Some(b',')) => {
                    self.take(1);
                    if self.open.last() == Some(&b'}') { Next::Key } else { Next::Value }
                }
                (Next::CommaOrEnd, _) => return Err(self.error("expected a comma or a closing bracket")),
                (Next::Key | Next::KeyOrEnd, Some(b'"')) => self.key()?,
                (Next::Key | Next::KeyOrEnd, _) => return Err(self.error("expected a key")),
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
            return Err(self.error("expected a colon"));
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
        Ok(self.end_value())
    }

    /// Ends a value.
    fn end_value(&mut self) -> Next {
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
        self.end_value()
    }

    /// Scans a number, a constant, or what Python writes for numbers without a JSON form.
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
            _ => return Err(self.error("expected a value")),
        };
        self.repaired |= kept != word;
        self.out.push_str(kept);
        self.at += length;
        Ok(())
    }

    /// Scans a string, quotes included.
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
                let unit = hex(rest).ok_or_else(|| self.error("invalid escape"))?;
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
            _ => return Err(self.error("invalid escape")),
        }
        Ok(())
    }
}

/// Returns the code unit of the `\uHHHH` at the start of `bytes`.
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

/// Returns whether a number is finite. Integers may have any length, as in Python.
fn is_finite(number: &str) -> bool {
    !number.contains(['e', 'E', '.']) || number.parse::<f64>().is_ok_and(f64::is_finite)
}
