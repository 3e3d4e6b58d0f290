//! Lenient JSON: accepts what Python's `json` accepts, and returns valid JSON.
//!
//! Accepted beside valid JSON: `NaN`, `Infinity` and numbers beyond double precision (they become `null`), lone surrogates
//! (U+FFFD), control characters inside strings, a byte-order mark, UTF-16 with a mark. Parsed without recursion, so that deep
//! nesting cannot overflow the stack.

mod scan;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde_json::Value;

use scan::Scanner;

/// A JSON document, with the fields of its outer object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// The text as it was, if that is valid JSON.
    verbatim: Option<String>,
    /// Valid JSON without white space between values.
    compact: String,
    /// Names of the outer object's fields, and the ranges of their values in `compact`.
    fields: Vec<(String, Range<usize>)>,
    is_object: bool,
}

impl Document {
    /// Parses a document.
    ///
    /// # Errors
    /// A description of what Python does not accept either.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let (text, mut repaired) = to_text(bytes);
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        let mut scanner = Scanner::new(&text);
        scanner.scan_document()?;
        repaired |= scanner.repaired;
        let Scanner { out, fields, is_object, .. } = scanner;
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

    /// Returns whether the document is an object.
    #[must_use]
    pub(crate) fn is_object(&self) -> bool {
        self.is_object
    }

    /// Returns the document: verbatim if that is valid JSON, else repaired.
    #[must_use]
    pub(crate) fn into_text(self) -> String {
        self.verbatim.unwrap_or(self.compact)
    }

    /// Returns the object with the field `name`, unless it has one of that name. `value` must be JSON.
    #[must_use]
    pub(crate) fn with(self, name: &str, value: &str) -> String {
        if !self.is_object || self.names().any(|other| other == name) {
            return self.into_text();
        }
        let comma = if self.fields.is_empty() { "" } else { "," };
        format!("{{{}:{value}{comma}{}", Value::from(name), &self.compact[1..])
    }

    /// Returns the names of the object's fields, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.fields.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the value of the field at index `at`, as JSON.
    #[must_use]
    pub(crate) fn value(&self, at: usize) -> &str {
        self.fields.get(at).map_or("null", |(_, value)| &self.compact[value.clone()])
    }

    /// Returns the object without the fields at the indices `used`; `None` if no field is left. A repeated name keeps its last
    /// value.
    #[must_use]
    pub(crate) fn without(&self, used: &[usize]) -> Option<String> {
        let last = |at: usize| !self.fields[at + 1..].iter().any(|(name, _)| *name == self.fields[at].0);
        let rest: Vec<String> = (0..self.fields.len())
            .filter(|at| !used.contains(at) && last(*at))
            .map(|at| format!("{}:{}", Value::from(self.fields[at].0.as_str()), self.value(at)))
            .collect();
        (!rest.is_empty()).then(|| format!("{{{}}}", rest.join(",")))
    }
}

/// Returns the text, and whether it had to be converted.
fn to_text(bytes: &[u8]) -> (String, bool) {
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
