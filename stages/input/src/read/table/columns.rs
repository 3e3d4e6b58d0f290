//! The roles of a table's columns: image, key, caption, URL, metadata, and the rest, which becomes JSON.

use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;
use recaption_schemas::name_text;
use serde_json::{Map, Value};

use super::{
    cell::{bytes_of, is_bytes, is_text, text_of},
    json,
};
use crate::{
    captions::{captions_and_url, captions_of},
    columns::{CAPTION, IMAGE, KEY, META, URL, configured_column, find_all},
    format::InputFormat,
    json::Document,
    keys::RowKey,
    read::settings::ReadSettings,
    setting_names::SettingNames,
    webdataset::{IMAGE_SUFFIXES, split_stem},
};

/// The values of a row.
#[derive(Default)]
pub(super) struct TableRow {
    /// `None` for a row whose key is its number.
    pub(super) key: Option<RowKey>,
    pub(super) image: Option<Bytes>,
    /// Suffix of the image, from its path or column name; may be empty.
    pub(super) suffix: String,
    pub(super) captions: Vec<String>,
    pub(super) url: Option<String>,
    /// Valid JSON.
    pub(super) meta: Option<String>,
    /// Why the row's own JSON is invalid.
    pub(super) json_error: Option<String>,
}

/// A column: its name and index.
type Column = (String, usize);

/// The columns of a table, by role.
#[derive(Debug)]
pub(super) struct ColumnRoles {
    /// `None` in a list of URLs.
    image: Option<Column>,
    caption: Option<Column>,
    url: Option<Column>,
    key: Option<Column>,
    /// The sample's own JSON.
    meta: Option<Column>,
    /// Columns that become the sample's JSON if it has none of its own.
    others: Vec<Column>,
    /// Columns that are not read.
    ignored: Vec<String>,
}

impl ColumnRoles {
    /// Assigns the roles.
    ///
    /// # Errors
    /// When a configured column is missing or of another type, or there is neither an image nor a URL.
    pub(super) fn detect(schema: &Schema, settings: &ReadSettings) -> Result<Self, String> {
        let (format, configured, settings) = (settings.format, &settings.columns, &settings.setting_names);
        let names = || schema.fields().iter().map(|f| f.name().as_str());
        let kind = |at: usize| schema.field(at).data_type();
        let column = |at: usize| (schema.field(at).name().clone(), at);
        let find = |configured: &Option<String>,
                    setting: &str,
                    usual: &[&str],
                    fits: fn(&DataType) -> bool| match configured {
            Some(name) => match configured_column(names(), name, setting)? {
                at if fits(kind(at)) => Ok(Some(column(at))),
                at => Err(format!("column `{name}` ({setting}) is of type {}", kind(at))),
            },
            None => Ok(find_all(names(), usual).find(|at| fits(kind(*at))).map(column)),
        };
        let image = find(&configured.image, settings.image_column, &IMAGE, is_image)?;
        let image = image.or_else(|| {
            // Hugging Face's image feature has this type, whatever its name.
            schema.fields().iter().position(|field| is_image_struct(field.data_type())).map(column)
        });
        let caption = find(&configured.caption, settings.caption_column, &CAPTION, is_caption)?;
        let url = find(&configured.url, settings.url_column, &URL, is_text)?;
        let key = find(&configured.key, settings.key_column, &KEY, is_key)?;
        let image = image.filter(|_| format != InputFormat::UrlList);
        let all = names().collect::<Vec<_>>().join(", ");
        check_roles((format, settings), image.is_some(), url.as_ref(), &all)?;
        let meta = find(&None, "", &META, is_meta)?;
        let mut roles = Self { image, caption, url, key, meta, others: Vec::new(), ignored: Vec::new() };
        for (at, field) in schema.fields().iter().enumerate() {
            if roles.is_left_out_of_json(at, field.data_type()) {
                continue;
            }
            if roles.meta.is_none() && json::has_json(field.data_type()) {
                roles.others.push(column(at));
            } else if !roles.named().any(|(_, (_, used))| *used == at) {
                roles.ignored.push(field.name().clone());
            }
        }
        Ok(roles)
    }

    /// Returns whether a column with a role is left out of the row's JSON.
    fn is_left_out_of_json(&self, at: usize, kind: &DataType) -> bool {
        // The URL of an embedded image is metadata.
        let url = self.url.as_ref().filter(|_| self.image.is_none());
        // Several captions all stay in the JSON.
        let caption = self.caption.as_ref().filter(|_| !is_list(kind));
        let used = [self.image.as_ref(), url, caption, self.key.as_ref(), self.meta.as_ref()];
        used.into_iter().flatten().any(|(_, used)| *used == at)
    }

    /// Returns the columns with a role.
    fn named(&self) -> impl Iterator<Item = (&'static str, &Column)> {
        let columns = [
            ("image", &self.image),
            ("caption", &self.caption),
            ("url", &self.url),
            ("key", &self.key),
            ("meta", &self.meta),
        ];
        columns.into_iter().filter_map(|(role, column)| Some((role, column.as_ref()?)))
    }

    /// Describes the roles for a log line.
    pub(super) fn describe(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for role in ["image", "caption", "url", "key"] {
            let found = self.named().find(|(named, _)| *named == role).map(|(_, (name, _))| name.as_str());
            let other = if role == "key" { "path or row number" } else { "none" };
            parts.push(format!("{role}={}", found.unwrap_or(other)));
        }
        let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let others = self.meta.iter().chain(&self.others).map(|(name, _)| name.as_str());
        parts.push(format!("meta={}", list(others.collect())));
        parts.push(format!("ignored={}", list(self.ignored.iter().map(String::as_str).collect())));
        parts.join(" ")
    }

    /// Returns whether the table holds images, not URLs of images.
    pub(super) fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// Returns the indices of the columns that are read.
    pub(super) fn roots(&self) -> Vec<usize> {
        let mut roots: Vec<usize> =
            self.named().map(|(_, column)| column).chain(&self.others).map(|(_, at)| *at).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// Returns the rows of a batch.
    ///
    /// # Errors
    /// When the batch lacks a column.
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<Vec<TableRow>, String> {
        let column =
            |name: &str| batch.column_by_name(name).ok_or_else(|| format!("column `{name}` is missing"));
        let optional = |role: &Option<Column>| role.as_ref().map(|(name, _)| column(name)).transpose();
        let image = optional(&self.image)?;
        let (caption, url) = (optional(&self.caption)?, optional(&self.url)?);
        let (key, meta) = (optional(&self.key)?, optional(&self.meta)?);
        let others = self.others.iter().map(|(name, _)| Ok((name.as_str(), column(name)?)));
        let others: Vec<(&str, &ArrayRef)> = others.collect::<Result<_, String>>()?;
        let (bytes, path) = image.map_or((None, None), split_image);
        let name = self.image.as_ref().map_or("", |(name, _)| name.as_str());
        let own = IMAGE_SUFFIXES.contains(&name).then(|| name.to_owned());
        let rows = (0..batch.num_rows()).map(|row| {
            let path = path.and_then(|path| name_text_of(path, row)).filter(|path| !path.is_empty());
            let (stem, suffix) = path.as_deref().map(split_stem).unwrap_or_default();
            let derived = (!stem.is_empty()).then(|| RowKey::Derived(stem.to_owned()));
            let declared =
                key.and_then(|column| name_text_of(column, row)).filter(|key| !key.trim().is_empty());
            let texts = self.texts((caption, url, meta), &others, row);
            TableRow {
                key: declared.map(RowKey::Declared).or(derived),
                image: bytes
                    .and_then(|bytes| bytes_of(bytes, row))
                    .filter(|_| image.is_some_and(|i| i.is_valid(row))),
                suffix: Some(suffix).filter(|s| !s.is_empty()).or_else(|| own.clone()).unwrap_or_default(),
                ..texts
            }
        });
        Ok(rows.collect())
    }

    /// Returns captions, URL and JSON of a row.
    fn texts(
        &self,
        (caption, url, meta): (Option<&ArrayRef>, Option<&ArrayRef>, Option<&ArrayRef>),
        others: &[(&str, &ArrayRef)],
        row: usize,
    ) -> TableRow {
        let mut captions = caption.map(|column| captions_of_cell(column, row)).unwrap_or_default();
        let mut url = url.and_then(|column| text_of(column, row)).filter(|url| !url.trim().is_empty());
        let (mut json, mut json_error) = (None, None);
        match meta.map(|column| own_json(column, row)) {
            None => json = object_of(others, row),
            Some(None) => {}
            Some(Some(Err(why))) => json_error = Some(why),
            Some(Some(Ok(document))) => {
                let (json_captions, json_url) = captions_and_url(&document);
                url = url.or(json_url);
                json = Some(match (&self.caption, captions.len()) {
                    (Some((name, _)), 2..) => document.with(name, &Value::from(captions.clone()).to_string()),
                    _ => document.into_text(),
                });
                if captions.iter().all(|text| text.trim().is_empty()) {
                    captions = json_captions;
                }
            }
        }
        TableRow { captions, url, meta: json, json_error, ..TableRow::default() }
    }
}

/// Returns the captions in a cell: a text, or a list of texts.
fn captions_of_cell(column: &ArrayRef, row: usize) -> Vec<String> {
    if is_text(column.data_type()) {
        return text_of(column, row).into_iter().collect();
    }
    captions_of(&json::value(column, row).to_string())
}

/// Parses the row's own JSON, a text or a struct; `None` if it has none.
fn own_json(column: &ArrayRef, row: usize) -> Option<Result<Document, String>> {
    if column.is_null(row) {
        return None;
    }
    let text = if is_text(column.data_type()) {
        text_of(column, row)?
    } else {
        json::value(column, row).to_string()
    };
    (!text.trim().is_empty()).then(|| Document::read(text.as_bytes()))
}

/// Checks that a table has the columns that its format needs.
fn check_roles(
    (format, settings): (InputFormat, &SettingNames),
    has_image: bool,
    url: Option<&(String, usize)>,
    names: &str,
) -> Result<(), String> {
    let missing =
        |what: &str, key: &str| Err(format!("no column {what}; there are: {names}. Name it with {key}"));
    match (format, has_image, url) {
        (InputFormat::UrlList, _, None) => missing("of URLs", settings.url_column),
        (InputFormat::Parquet, false, Some((url, _))) => missing(
            "of image bytes",
            &format!(
                "{}, or fetch what `{url}` names with {} = \"url_list\"",
                settings.image_column, settings.format
            ),
        ),
        (_, false, None) => missing(
            "of image bytes or URLs",
            &format!("{} or {}", settings.image_column, settings.url_column),
        ),
        _ => Ok(()),
    }
}

fn is_image_struct(kind: &DataType) -> bool {
    let DataType::Struct(fields) = kind else { return false };
    let child = |name: &str| fields.iter().find(|field| field.name() == name);
    child("bytes").is_some_and(|field| is_bytes(field.data_type())) && child("path").is_some()
}

fn is_image(kind: &DataType) -> bool {
    is_bytes(kind) || is_image_struct(kind)
}

fn is_key(kind: &DataType) -> bool {
    is_text(kind) || kind.is_integer()
}

fn is_list(kind: &DataType) -> bool {
    matches!(kind, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _))
}

/// Returns whether a type holds captions: text, or a list of texts or of structs with one.
fn is_caption(kind: &DataType) -> bool {
    match kind {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            let item = item.data_type();
            is_text(item) && !is_bytes(item) || matches!(item, DataType::Struct(_)) && json::has_json(item)
        }
        DataType::Dictionary(_, value) => is_text(value) && !is_bytes(value),
        kind => is_text(kind),
    }
}

/// Returns whether a type holds the sample's JSON: text, or a struct or map that becomes JSON.
fn is_meta(kind: &DataType) -> bool {
    is_text(kind) || matches!(kind, DataType::Struct(_) | DataType::Map(_, _)) && json::has_json(kind)
}

/// Returns the arrays of an image's bytes and path.
fn split_image(image: &ArrayRef) -> (Option<&ArrayRef>, Option<&ArrayRef>) {
    match image.as_any().downcast_ref::<StructArray>() {
        Some(parts) => (parts.column_by_name("bytes"), parts.column_by_name("path")),
        None => (Some(image), None),
    }
}

/// Returns the name or number in a cell as text.
fn name_text_of(column: &ArrayRef, row: usize) -> Option<String> {
    if is_bytes(column.data_type()) {
        return bytes_of(column, row).map(|bytes| name_text(&bytes));
    }
    text_of(column, row).or_else(|| match json::value(column, row) {
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

/// Returns the cells of a row as a JSON object, in the table's order; `None` without columns.
fn object_of(columns: &[(&str, &ArrayRef)], row: usize) -> Option<String> {
    if columns.is_empty() {
        return None;
    }
    let fields = columns.iter().map(|(name, column)| ((*name).to_owned(), json::value(column, row)));
    Some(Value::Object(fields.collect::<Map<_, _>>()).to_string())
}
