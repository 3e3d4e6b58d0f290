//! The keys of a program, read from the schema of its sections.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use crate::Kind;

/// The sections of a program.
pub trait Settings: DeserializeOwned + Serialize + JsonSchema + Default {
    /// Prefix of environment variables that set keys, before `SECTION__KEY`.
    const ENVIRONMENT: &'static str;
    /// Longer prefixes that begin with [`Settings::ENVIRONMENT`] and belong to other programs.
    const FOREIGN_ENVIRONMENTS: &'static [&'static str] = &[];

    /// The keys, described once per process.
    fn description() -> &'static Description;
}

/// A configuration key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// `section.key`.
    pub name: String,
    /// Type and range.
    pub kind: Kind,
    /// Default, as the documentation writes it.
    pub default: String,
    /// Unit of the value; empty for none.
    pub unit: String,
    /// Meaning, a sentence.
    pub help: String,
    /// The flag that sets it, such as `--model MODEL`, if there is one.
    pub flag: Option<String>,
    /// Whether it has no default and must be set.
    pub is_required: bool,
}

/// All keys of a program, by section, in the order of their declaration.
#[derive(Clone, Debug)]
pub struct Description {
    sections: Vec<(String, String)>,
    keys: Vec<Key>,
    schema: Json,
}

impl Description {
    /// Describes the sections of `S`.
    #[must_use]
    pub fn of<S: Settings>() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<S>().to_value();
        let (mut sections, mut keys) = (Vec::new(), Vec::new());
        for (section, content) in properties(&schema) {
            sections.push((section.clone(), text(content, "description")));
            keys.extend(properties(content).map(|(key, field)| Key {
                name: format!("{section}.{key}"),
                kind: Kind::of(field),
                default: default_of(field),
                unit: text(field, "x-unit"),
                help: text(field, "description"),
                flag: field.get("x-flag").and_then(Json::as_str).map(str::to_owned),
                is_required: field.get("x-required").is_some_and(|required| *required == true),
            }));
        }
        keys.iter().for_each(|key| allow_booleans(&mut schema, key));
        Self { sections, keys, schema }
    }

    /// All keys, in the order of their declaration.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Names of the sections with their meaning.
    #[must_use]
    pub fn sections(&self) -> &[(String, String)] {
        &self.sections
    }

    /// The keys of a section.
    pub fn keys_of<'a>(&'a self, section: &'a str) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |key| key.name.split_once('.').is_some_and(|(name, _)| name == section))
    }

    /// JSON schema (draft 2020-12) of a configuration file.
    #[must_use]
    pub fn schema(&self) -> &Json {
        &self.schema
    }

    /// The key of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The known key that a mistyped one most likely means.
    #[must_use]
    pub fn nearest(&self, name: &str) -> &str {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        // A right key in a wrong section is nearer than a wrong key in a right one.
        let score = |key: &Key| {
            strsim::jaro_winkler(&key.name, name)
                .max(0.98 * strsim::jaro_winkler(&last(&key.name), &last(name)))
        };
        self.keys.iter().max_by(|a, b| score(a).total_cmp(&score(b))).map_or("", |key| &key.name)
    }

    /// Help text of a flag that sets the key. Empty for a key that there is not.
    #[must_use]
    pub fn help(&self, name: &str) -> String {
        let Some(key) = self.find(name) else { return String::new() };
        let mut notes = vec![format!("sets {}", key.name)];
        let range = key.kind.range().replace('`', "");
        if !range.is_empty() {
            notes.push(range);
        }
        if !key.is_required {
            notes.push(format!("default: {}", key.default));
        }
        format!("{} [{}]", key.help.trim_end_matches('.'), notes.join("; "))
    }
}

/// Lets the schema accept `true` for the choice "true", as [`Layers::set`](crate::Layers::set) does.
fn allow_booleans(schema: &mut Json, key: &Key) {
    let Kind::Choice(choices) = &key.kind else { return };
    if !choices.iter().any(|choice| choice == "true") {
        return;
    }
    let pointer = format!("/properties/{}/oneOf", key.name.replace('.', "/properties/"));
    if let Some(Json::Array(variants)) = schema.pointer_mut(&pointer) {
        variants.push(serde_json::json!({ "type": "boolean" }));
    }
}

/// The default as the documentation writes it.
fn default_of(field: &Json) -> String {
    if field.get("x-required").is_some_and(|required| *required == true) {
        return "required".to_owned();
    }
    match field.get("x-default").or_else(|| field.get("default")) {
        Some(Json::String(text)) if !text.is_empty() => text.clone(),
        Some(Json::String(_)) => "empty".to_owned(),
        Some(Json::Array(items)) if items.is_empty() => "none".to_owned(),
        Some(Json::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        Some(Json::Null) | None => "none".to_owned(),
        Some(Json::Number(bytes)) if text(field, "x-unit") == "bytes" => bytes_in_words(bytes),
        Some(other) => other.to_string(),
    }
}

/// A number of bytes, in MiB or GiB too where it is a multiple.
fn bytes_in_words(number: &serde_json::Number) -> String {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match number.as_u64().filter(|bytes| *bytes > 0) {
        Some(bytes) if bytes % GIB == 0 => format!("{number} ({} GiB)", bytes / GIB),
        Some(bytes) if bytes % MIB == 0 => format!("{number} ({} MiB)", bytes / MIB),
        _ => number.to_string(),
    }
}

fn properties(schema: &Json) -> impl Iterator<Item = (&String, &Json)> {
    schema.get("properties").and_then(Json::as_object).into_iter().flatten()
}

/// A text of a schema, in one line.
fn text(schema: &Json, name: &str) -> String {
    let text = schema.get(name).and_then(Json::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
