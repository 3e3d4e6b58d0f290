//! The first layer: keys and values as they were typed, with where each came from.

use std::{collections::BTreeMap, path::Path};

use recaption_onnx::runtime::Devices;
use recaption_schemas::{redact_text, redact_url};
use toml::Value;

use super::keys::{self, Kind};

/// Prefix of environment variables that set keys.
const ENVIRONMENT: &str = "RECAPTION_";

/// What is wrong with the configuration. Ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {what}")]
pub struct ConfigError {
    /// File, variable or flag.
    pub origin: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl ConfigError {
    pub(super) fn new(origin: impl Into<String>, what: impl Into<String>) -> Self {
        // Values are quoted in both, and a URL may hold secrets.
        Self { origin: redact_text(&origin.into()), what: redact_text(&what.into()) }
    }
}

#[derive(Clone, Debug)]
struct Typed {
    value: Value,
    origin: String,
}

/// Keys set so far; a later layer replaces an earlier one.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: BTreeMap<&'static str, Typed>,
}

impl Layers {
    /// Adds a TOML file.
    ///
    /// # Errors
    /// An unreadable or malformed file, an unknown key, a value of the wrong type.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::new(&origin, e.to_string()))?;
        self.add_toml(&text, &origin)
    }

    /// Adds a TOML document.
    ///
    /// # Errors
    /// As [`Layers::add_file`].
    pub fn add_toml(&mut self, text: &str, origin: &str) -> Result<(), ConfigError> {
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| ConfigError::new(origin, e.to_string()))?;
        for (section, content) in table {
            let Value::Table(content) = content else {
                let what = format!(
                    "`{section}` stands outside a section; did you mean `{}`?",
                    keys::nearest(&section)
                );
                return Err(ConfigError::new(origin, what));
            };
            for (key, value) in content {
                self.set(&format!("{section}.{key}"), value, origin)?;
            }
        }
        Ok(())
    }

    /// Adds `RECAPTION_SECTION__KEY` variables; others with that prefix are not ours.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong type.
    pub fn add_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (name, text) in variables {
            if let Some((section, key)) =
                name.strip_prefix(ENVIRONMENT).and_then(|rest| rest.split_once("__"))
            {
                let key = format!("{}.{}", section.to_lowercase(), key.to_lowercase());
                self.set(&key, parse_value(&text), &format!("environment variable {name}"))?;
            }
        }
        Ok(())
    }

    /// Adds a `--set section.key=value`.
    ///
    /// # Errors
    /// No `=`, an unknown key, a value of the wrong type.
    pub fn add_assignment(&mut self, text: &str) -> Result<(), ConfigError> {
        let origin = format!("--set {text}");
        let Some((key, value)) = text.split_once('=') else {
            return Err(ConfigError::new(origin, "expected section.key=value"));
        };
        self.set(key.trim(), parse_value(value.trim()), &origin)
    }

    /// Adds what [`Layers::describe`] made of other layers.
    ///
    /// # Errors
    /// A key that is not known any more, a value of the wrong type.
    pub fn add_described(
        &mut self,
        described: &BTreeMap<String, String>,
        origin: &str,
    ) -> Result<(), ConfigError> {
        described.iter().try_for_each(|(key, value)| self.set(key, parse_value(value), origin))
    }

    /// Sets one key.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong type or out of range.
    pub fn set(&mut self, name: &str, value: impl Into<Value>, origin: &str) -> Result<(), ConfigError> {
        let Some(key) = keys::find(name) else {
            let what = format!("unknown key `{name}`; did you mean `{}`?", keys::nearest(name));
            return Err(ConfigError::new(origin, what));
        };
        let mut value = value.into();
        if let (Kind::Choice(_), Value::Boolean(flag)) = (key.kind, &value) {
            value = Value::String(flag.to_string());
        }
        check(key.name, key.kind, &value).map_err(|what| ConfigError::new(origin, what))?;
        self.values.insert(key.name, Typed { value, origin: origin.to_owned() });
        Ok(())
    }

    /// Where a key was set, for errors about it.
    #[must_use]
    pub fn origin(&self, name: &str) -> String {
        self.values.get(name).map_or_else(|| format!("`{name}` (default)"), |t| t.origin.clone())
    }

    /// Whether any layer set the key.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.values.get(name)?.value.as_str().map(str::to_owned)
    }

    /// A list of strings.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<String> {
        match self.values.get(name).map(|t| &t.value) {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        }
    }

    /// A whole number.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.values.get(name)?.value.as_integer()
    }

    /// Numbers of GPUs.
    #[must_use]
    pub fn devices(&self, name: &str) -> Option<Devices> {
        devices_of(&self.values.get(name)?.value).ok()
    }

    /// A truth value.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.values.get(name)?.value.as_bool()
    }

    /// A number.
    #[must_use]
    pub fn real(&self, name: &str) -> Option<f64> {
        match &self.values.get(name)?.value {
            Value::Integer(n) => Some(*n as f64),
            value => value.as_float(),
        }
    }

    /// Everything that was set, for the run's record; secrets in URLs are left out.
    #[must_use]
    pub fn describe(&self) -> BTreeMap<String, String> {
        let redacted = |value: &Value| match value {
            Value::String(text) => Value::String(redact_url(text)).to_string(),
            Value::Array(items) => {
                let texts = items.iter().filter_map(Value::as_str);
                Value::Array(texts.map(|text| Value::String(redact_url(text))).collect()).to_string()
            }
            other => other.to_string(),
        };
        self.values.iter().map(|(k, t)| ((*k).to_owned(), redacted(&t.value))).collect()
    }
}

/// A TOML value; what is none is a string, so that `--set caption.strategy=greedy` needs no quotes in quotes.
fn parse_value(text: &str) -> Value {
    let document = format!("value = {text}");
    match document.parse::<toml::Table>().ok().and_then(|mut t| t.remove("value")) {
        Some(value) => value,
        None => Value::String(text.to_owned()),
    }
}

/// `0`, `"0,1"`, `[0, 1]` and `"all"` all name GPUs.
fn devices_of(value: &Value) -> Result<Devices, String> {
    let text = match value {
        Value::Integer(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(numbers) => {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            numbers.join(",")
        }
        other => other.to_string(),
    };
    text.parse()
}

fn check(name: &str, kind: Kind, value: &Value) -> Result<(), String> {
    let expected = match kind {
        Kind::Text => value.is_str().then_some(()).ok_or("a string".to_owned()),
        Kind::Flag => value.is_bool().then_some(()).ok_or("true or false".to_owned()),
        Kind::Choice(choices) => value
            .as_str()
            .filter(|v| choices.contains(v))
            .map(|_| ())
            .ok_or_else(|| format!("one of {}", choices.join(", "))),
        Kind::TextList => match value {
            Value::String(_) => Ok(()),
            Value::Array(items) if items.iter().all(Value::is_str) => Ok(()),
            _ => Err("a string or a list of strings".to_owned()),
        },
        Kind::Integer(low, high) => {
            value.as_integer().filter(|n| (low..=high).contains(n)).map(|_| ()).ok_or_else(|| {
                if high == i64::MAX {
                    format!("a whole number of at least {low}")
                } else {
                    format!("a whole number from {low} to {high}")
                }
            })
        }
        Kind::Devices => {
            devices_of(value).map(|_| ()).map_err(|error| format!("GPU numbers or \"all\": {error}"))
        }
        Kind::Real(low, high) => {
            let number = match value {
                Value::Integer(n) => Some(*n as f64),
                other => other.as_float(),
            };
            number
                .filter(|n| (low..=high).contains(n))
                .map(|_| ())
                .ok_or_else(|| format!("a number from {low} to {high}"))
        }
    };
    expected.map_err(|want| format!("`{name}` = {value} is not valid: expected {want}"))
}
