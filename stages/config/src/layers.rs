//! Values layer by layer, each with where it came from.

use std::{collections::BTreeMap, marker::PhantomData, path::Path};

use figment2::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value as Sourced},
};
use recaption_schemas::redact_url;
use toml::Value;

use crate::{ConfigError, Description, Kind, Settings};

/// Files larger than this are no configuration.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Keys set so far, with the origin of each; a later layer replaces an earlier one.
#[derive(Clone, Debug)]
pub struct Layers<S> {
    figment: Figment,
    settings: PhantomData<S>,
}

impl<S> Default for Layers<S> {
    fn default() -> Self {
        Self { figment: Figment::new(), settings: PhantomData }
    }
}

/// One value on its way into the layers.
#[derive(Clone, Copy)]
struct SourcedValue<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a Value,
    origin: &'a str,
}

impl Provider for SourcedValue<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_owned())
    }

    fn data(&self) -> figment2::error::Result<Map<Profile, Dict>> {
        let content = Dict::from([(self.key.to_owned(), Sourced::serialize(self.value)?)]);
        let section = Dict::from([(self.section.to_owned(), Sourced::from(content))]);
        Ok(Map::from([(Profile::Default, section)]))
    }
}

impl<S: Settings> Layers<S> {
    /// Adds a TOML file.
    ///
    /// # Errors
    /// An unreadable or malformed file, an unknown key, a value of the wrong type or out of its range.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let origin = path.display().to_string();
        let error = |e: std::io::Error| ConfigError::new(&origin, e.to_string());
        if std::fs::metadata(path).map_err(error)?.len() > MAX_FILE_BYTES {
            return Err(ConfigError::new(
                &origin,
                format!("larger than {MAX_FILE_BYTES} bytes: no configuration"),
            ));
        }
        self.add_toml(&std::fs::read_to_string(path).map_err(error)?, &origin)
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
                let nearest = S::description().nearest(&section);
                let what = format!("`{section}` stands outside a section; did you mean `{nearest}`?");
                return Err(ConfigError::new(origin, what));
            };
            for (key, value) in content {
                self.set(&format!("{section}.{key}"), value, origin)?;
            }
        }
        Ok(())
    }

    /// Adds variables named `SECTION__KEY` behind [`Settings::ENVIRONMENT`]; others set no key.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong type or out of its range.
    pub fn add_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (name, text) in variables {
            if S::FOREIGN_ENVIRONMENTS.iter().any(|foreign| name.starts_with(foreign)) {
                continue;
            }
            if let Some((section, key)) =
                name.strip_prefix(S::ENVIRONMENT).and_then(|rest| rest.split_once("__"))
            {
                let key = format!("{}.{}", section.to_lowercase(), key.to_lowercase());
                self.set(&key, parse_value(&text), &format!("environment variable {name}"))?;
            }
        }
        Ok(())
    }

    /// Adds the variables of this process. A variable that is not UTF-8 sets no key.
    ///
    /// # Errors
    /// As [`Layers::add_environment`].
    pub fn add_process_environment(&mut self) -> Result<(), ConfigError> {
        let variables =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        self.add_environment(variables)
    }

    /// Adds a `--set section.key=value`; the value is TOML, or else a string.
    ///
    /// # Errors
    /// No `=`, an unknown key, a value of the wrong type or out of its range.
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
    /// A key that is not known any more, a value of the wrong type or out of its range.
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
    /// An unknown key, a value of the wrong type or out of its range.
    pub fn set(&mut self, name: &str, value: impl Into<Value>, origin: &str) -> Result<(), ConfigError> {
        let description = S::description();
        let Some(key) = description.find(name) else {
            let what = format!("unknown key `{name}`; did you mean `{}`?", description.nearest(name));
            return Err(ConfigError::new(origin, what));
        };
        let mut value = value.into();
        if let (Kind::Choice(_), Value::Boolean(flag)) = (&key.kind, &value) {
            value = Value::String(flag.to_string());
        }
        let invalid = |expected: String| {
            ConfigError::new(origin, format!("`{name}` = {value} is not valid: expected {expected}"))
        };
        key.kind.check(&value).map_err(invalid)?;
        let (section, key_name) = name.split_once('.').unwrap_or((name, ""));
        let layer = SourcedValue { section, key: key_name, value: &value, origin };
        // Types of their own are checked by their deserialiser; for all others this finds nothing more.
        Figment::from(layer)
            .extract::<S>()
            .map_err(|error| invalid(format!("{}: {}", key.kind, in_words(&error.kind))))?;
        // The library merges tables and keeps the origin of an array's first layer; here a value replaces the one before it
        // whole, with a scalar in between.
        let nothing = SourcedValue { value: &Value::Boolean(false), ..layer };
        self.figment = std::mem::take(&mut self.figment).merge(nothing).merge(layer);
        Ok(())
    }

    /// The sections, with defaults for what no layer sets.
    ///
    /// # Errors
    /// A key without a default that no layer sets.
    pub fn extract(&self) -> Result<S, ConfigError> {
        for key in S::description().keys().iter().filter(|key| key.is_required) {
            self.require(&key.name)?;
        }
        self.extract_partial()
    }

    /// As [`Layers::extract`], where keys without a default may be missing: they are empty then.
    ///
    /// # Errors
    /// None in practice: each value was checked when it was added.
    pub fn extract_partial(&self) -> Result<S, ConfigError> {
        self.figment.extract().map_err(|error| {
            let origin = error.metadata.as_ref().map_or("configuration", |metadata| &metadata.name);
            ConfigError::new(origin, format!("`{}`: {}", error.path.join("."), error.kind))
        })
    }

    /// Checks that a key is set, and not to nothing.
    ///
    /// # Errors
    /// A key that no layer sets, with how to set it.
    pub fn require(&self, name: &str) -> Result<(), ConfigError> {
        let is_empty = match self.value(name) {
            None => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(_) => false,
        };
        if !is_empty {
            return Ok(());
        }
        let flag = S::description().find(name).and_then(|key| key.flag.clone());
        let flag = flag.unwrap_or_else(|| format!("--set {name}=VALUE"));
        Err(ConfigError::new(
            "configuration",
            format!("`{name}` is not set: give it in the file or as {flag}"),
        ))
    }

    /// An error about a key, with where it was set.
    pub fn error(&self, name: &str, what: impl Into<String>) -> ConfigError {
        ConfigError::new(self.origin(name), what)
    }

    /// Where a key was set, for errors about it.
    #[must_use]
    pub fn origin(&self, name: &str) -> String {
        self.explicit_origin(name).unwrap_or_else(|| format!("`{name}` (default)"))
    }

    /// File, variable or flag that set the key; none where the default holds.
    #[must_use]
    pub fn explicit_origin(&self, name: &str) -> Option<String> {
        self.figment.find_metadata(name).map(|metadata| metadata.name.to_string())
    }

    /// Whether any layer set the key.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.figment.contains(name)
    }

    /// The value that a layer set.
    fn value(&self, name: &str) -> Option<Value> {
        self.figment.extract_inner(name).ok()
    }

    /// Everything that was set, as TOML writes it, for the record of a run; secrets of URLs are left out.
    #[must_use]
    pub fn describe(&self) -> BTreeMap<String, String> {
        let keys = S::description().keys().iter();
        keys.filter_map(|key| Some((key.name.clone(), redacted(self.value(&key.name)?).to_string())))
            .collect()
    }

    /// Effective values as a TOML document, with the origin of each; secrets of URLs are left out.
    #[must_use]
    pub fn show(&self) -> String {
        let description: &Description = S::description();
        let mut lines = Vec::new();
        for (section, _) in description.sections() {
            lines.push(format!("[{section}]"));
            for key in description.keys_of(section) {
                let name = key.name.rsplit('.').next().unwrap_or_default();
                lines.push(match (self.value(&key.name), self.explicit_origin(&key.name)) {
                    (Some(value), Some(origin)) => {
                        let origin = recaption_schemas::redact_text(&origin);
                        format!("{name} = {}  # {origin}", redacted(value))
                    }
                    _ if key.is_required => format!("# {name} is not set"),
                    _ => format!("# {name}: {} (default)", key.default),
                });
            }
            lines.push(String::new());
        }
        lines.join("\n")
    }
}

/// What a deserialiser found wrong.
fn in_words(kind: &figment2::error::Kind) -> String {
    match kind {
        figment2::error::Kind::UnknownField(name, known) => {
            format!("unknown key `{name}`, known are {}", known.join(", "))
        }
        other => other.to_string(),
    }
}

fn redacted(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(redact_url(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(redacted).collect()),
        other => other,
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
