//! What the value of a key must be, read from the schema of its field.

use std::fmt;

use serde_json::Value as Json;
use toml::Value;

/// What the value of a key must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A string.
    Text,
    /// One of these strings.
    Choice(Vec<String>),
    /// A string or a list of strings.
    TextList,
    /// A whole number in this range, ends included.
    Integer(i64, i64),
    /// A number in this range.
    Real(Range),
    /// `true` or `false`.
    Flag,
    /// A type of its own, with the words for what it must be; its deserialiser checks it.
    Other(String),
}

/// A range of numbers. Its ends belong to it unless they are open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: f64,
    is_low_open: bool,
    high: f64,
    is_high_open: bool,
}

impl Range {
    /// Reads `minimum`, `maximum` and the exclusive ones of a schema.
    fn of(schema: &Json) -> Self {
        let number = |name: &str| schema.get(name).and_then(Json::as_f64);
        let (low, high) = (number("minimum"), number("maximum"));
        let (above, below) = (number("exclusiveMinimum"), number("exclusiveMaximum"));
        Self {
            low: above.or(low).unwrap_or(f64::NEG_INFINITY),
            is_low_open: above.is_some(),
            high: below.or(high).unwrap_or(f64::INFINITY),
            is_high_open: below.is_some(),
        }
    }

    fn contains(&self, number: f64) -> bool {
        let above = if self.is_low_open { number > self.low } else { number >= self.low };
        let below = if self.is_high_open { number < self.high } else { number <= self.high };
        number.is_finite() && above && below
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low, is_low_open, high, is_high_open } = *self;
        match (low.is_finite(), high.is_finite()) {
            (true, true) => {
                write!(f, "from {low} to {high}")?;
                match (is_low_open, is_high_open) {
                    (true, true) => write!(f, ", both excluded"),
                    (true, false) => write!(f, ", {low} excluded"),
                    (false, true) => write!(f, ", {high} excluded"),
                    (false, false) => Ok(()),
                }
            }
            (true, false) if is_low_open => write!(f, "above {low}"),
            (true, false) => write!(f, "of at least {low}"),
            (false, true) if is_high_open => write!(f, "below {high}"),
            (false, true) => write!(f, "of at most {high}"),
            (false, false) => Ok(()),
        }
    }
}

impl Kind {
    /// Reads the schema of a field.
    pub(crate) fn of(schema: &Json) -> Self {
        if let Some(expected) = schema.get("x-expected").and_then(Json::as_str) {
            return Self::Other(expected.to_owned());
        }
        if let Some(choices) = choices(schema) {
            return Self::Choice(choices);
        }
        match type_of(schema) {
            Some("boolean") => Self::Flag,
            Some("integer") => {
                let end = |name: &str| schema.get(name).and_then(Json::as_i64);
                Self::Integer(end("minimum").unwrap_or(i64::MIN), end("maximum").unwrap_or(i64::MAX))
            }
            Some("number") => Self::Real(Range::of(schema)),
            Some("string") => Self::Text,
            _ if is_text_list(schema) => Self::TextList,
            other => Self::Other(format!("a value of type {}", other.unwrap_or("any"))),
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// What was expected instead.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match self {
            Self::Text => value.is_str(),
            Self::Flag => value.is_bool(),
            Self::Choice(choices) => value.as_str().is_some_and(|text| choices.iter().any(|c| c == text)),
            Self::TextList => match value {
                Value::String(_) => true,
                Value::Array(items) => items.iter().all(Value::is_str),
                _ => false,
            },
            Self::Integer(low, high) => value.as_integer().is_some_and(|n| (*low..=*high).contains(&n)),
            Self::Real(range) => match value {
                Value::Integer(n) => range.contains(*n as f64),
                other => other.as_float().is_some_and(|n| range.contains(n)),
            },
            Self::Other(_) => true,
        };
        if fits { Ok(()) } else { Err(self.to_string()) }
    }

    /// Range or choices, for the reference; empty where any value of the type will do.
    #[must_use]
    pub fn range(&self) -> String {
        match self {
            Self::Choice(choices) => choices.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", "),
            Self::Integer(low, i64::MAX) if *low > i64::MIN => format!("at least {low}"),
            Self::Integer(i64::MIN, _) => String::new(),
            Self::Integer(low, high) => format!("{low} to {high}"),
            Self::Real(range) => {
                let words = range.to_string();
                words.trim_start_matches("from ").trim_start_matches("of ").to_owned()
            }
            Self::Other(expected) => expected.clone(),
            Self::Text | Self::TextList | Self::Flag => String::new(),
        }
    }

    /// Name of the type, for the reference.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text | Self::Choice(_) => "string",
            Self::TextList => "string or list",
            Self::Integer(..) => "integer",
            Self::Real(_) => "number",
            Self::Flag => "boolean",
            Self::Other(_) => "",
        }
    }
}

impl fmt::Display for Kind {
    /// What is expected, as errors say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => write!(f, "a string"),
            Self::Choice(choices) => write!(f, "one of {}", choices.join(", ")),
            Self::TextList => write!(f, "a string or a list of strings"),
            Self::Integer(i64::MIN, i64::MAX) => write!(f, "a whole number"),
            Self::Integer(low, i64::MAX) => write!(f, "a whole number of at least {low}"),
            Self::Integer(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::Real(range) => write!(f, "{}", format!("a number {range}").trim_end()),
            Self::Flag => write!(f, "true or false"),
            Self::Other(expected) => write!(f, "{expected}"),
        }
    }
}

/// The type of a schema, `null` of optional fields left out.
fn type_of(schema: &Json) -> Option<&str> {
    match schema.get("type")? {
        Json::Array(types) => types.iter().filter_map(Json::as_str).find(|name| *name != "null"),
        name => name.as_str(),
    }
}

/// The strings of an enumeration: `enum`, or `oneOf` with a documented constant each.
fn choices(schema: &Json) -> Option<Vec<String>> {
    let text = |value: &Json| value.as_str().map(str::to_owned);
    if let Some(values) = schema.get("enum").and_then(Json::as_array) {
        return Some(values.iter().filter_map(text).collect());
    }
    let variants = schema.get("oneOf")?.as_array()?;
    let mut names = Vec::new();
    for variant in variants {
        match (variant.get("const"), variant.get("enum").and_then(Json::as_array)) {
            (Some(name), _) => names.extend(text(name)),
            (None, Some(several)) => names.extend(several.iter().filter_map(text)),
            (None, None) => return None,
        }
    }
    Some(names)
}

fn is_text_list(schema: &Json) -> bool {
    let Some(forms) = schema.get("anyOf").and_then(Json::as_array) else { return false };
    forms.iter().any(|form| type_of(form) == Some("string"))
        && forms.iter().any(|form| form["items"]["type"] == "string")
}
