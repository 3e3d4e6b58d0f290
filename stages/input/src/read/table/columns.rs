//! Which columns of a table are the image, its key, its caption, its address, and what of the rest becomes JSON.

use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray, cast::AsArray};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;
use recaption_schemas::name_text;
use serde_json::{Map, Value};

use super::json;
use crate::{
    fetch::told_column,
    json::Document,
    label::Label,
    read::{Columns, InputFormat},
    told::{self, CAPTION, IMAGE, KEY, META, URL},
    webdataset::{IMAGE_SUFFIXES, split_stem},
};

/// A row on its way to be a sample.
pub struct Row {
    /// None where it is the row's number.
    pub label: Option<Label>,
    pub image: Option<Bytes>,
    pub suffix: String,
    pub captions: Vec<String>,
    pub url: Option<String>,
    pub meta: Option<String>,
    /// Why the row's own JSON is none.
    pub unreadable: Option<String>,
}

/// A column by name, with its place among all.
type Column = (String, usize);

/// Columns by what they are used for.
#[derive(Debug)]
pub struct Chosen {
    /// None in a list of addresses.
    image: Option<Column>,
    caption: Option<Column>,
    url: Option<Column>,
    key: Option<Column>,
    /// The sample's own JSON.
    meta: Option<Column>,
    /// What becomes JSON where there is none.
    others: Vec<Column>,
    /// What is not read.
    left: Vec<String>,
}

impl Chosen {
    /// Chooses among a table's columns.
    ///
    /// # Errors
    /// A column that was told is not there or of another type; no column of image bytes.
    pub fn among(schema: &Schema, told: &Columns, format: InputFormat) -> Result<Self, String> {
        let names = || schema.fields().iter().map(|f| f.name().as_str());
        let kind = |at: usize| schema.field(at).data_type();
        let column = |at: usize| (schema.field(at).name().clone(), at);
        let choose =
            |told: &Option<String>, key: &str, usual: &[&str], fits: fn(&DataType) -> bool| match told {
                Some(name) => match told_column(names(), name, key)? {
                    at if fits(kind(at)) => Ok(Some(column(at))),
                    at => Err(format!("column `{name}` ({key}) is of type {}", kind(at))),
                },
                None => Ok(told::find_all(names(), usual).find(|at| fits(kind(*at))).map(column)),
            };
        let image = choose(&told.image, "input.image_column", &IMAGE, is_image)?;
        let image = image.or_else(|| {
            // Hugging Face's image feature has this form whatever its name.
            schema.fields().iter().position(|field| is_image_struct(field.data_type())).map(column)
        });
        let caption = choose(&told.caption, "input.caption_column", &CAPTION, is_caption)?;
        let url = choose(&told.url, "input.url_column", &URL, is_text)?;
        let key = choose(&told.key, "input.key_column", &KEY, is_key)?;
        let image = image.filter(|_| format != InputFormat::UrlList);
        check(format, image.is_some(), url.as_ref(), &names().collect::<Vec<_>>().join(", "))?;
        let meta = choose(&None, "", &META, is_meta)?;
        let mut chosen = Self { image, caption, url, key, meta, others: Vec::new(), left: Vec::new() };
        for (at, field) in schema.fields().iter().enumerate() {
            if chosen.is_used(at, field.data_type()) {
                continue;
            }
            if chosen.meta.is_none() && json::has_json(field.data_type()) {
                chosen.others.push(column(at));
            } else if !chosen.named().any(|(_, (_, used))| *used == at) {
                chosen.left.push(field.name().clone());
            }
        }
        Ok(chosen)
    }

    /// Whether a column needs no place in what becomes JSON.
    fn is_used(&self, at: usize, kind: &DataType) -> bool {
        // The address of an image that is there is part of what is known of it; of one that is fetched it is the way.
        let address = self.url.as_ref().filter(|_| self.image.is_none());
        // Of several captions one is taken; all of them stay.
        let caption = self.caption.as_ref().filter(|_| !is_list(kind));
        let used = [self.image.as_ref(), address, caption, self.key.as_ref(), self.meta.as_ref()];
        used.into_iter().flatten().any(|(_, used)| *used == at)
    }

    /// The columns that are used, by what for.
    fn named(&self) -> impl Iterator<Item = (&'static str, &Column)> {
        let columns = [
            ("image", &self.image),
            ("caption", &self.caption),
            ("address", &self.url),
            ("key", &self.key),
            ("meta", &self.meta),
        ];
        columns.into_iter().filter_map(|(role, column)| Some((role, column.as_ref()?)))
    }

    /// What is used, and what is left.
    pub fn describe(&self) -> String {
        let mut said: Vec<String> = Vec::new();
        for role in ["image", "caption", "address", "key"] {
            let found = self.named().find(|(named, _)| *named == role).map(|(_, (name, _))| name.as_str());
            let other = if role == "key" { "path or row number" } else { "none" };
            said.push(format!("{role}={}", found.unwrap_or(other)));
        }
        let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let others = self.meta.iter().chain(&self.others).map(|(name, _)| name.as_str());
        said.push(format!("meta={}", list(others.collect())));
        said.push(format!("left={}", list(self.left.iter().map(String::as_str).collect())));
        said.join(" ")
    }

    /// Whether images are there, and not to be fetched.
    pub fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// Places of the columns that are read.
    pub fn roots(&self) -> Vec<usize> {
        let mut roots: Vec<usize> =
            self.named().map(|(_, column)| column).chain(&self.others).map(|(_, at)| *at).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// A batch's rows.
    ///
    /// # Errors
    /// When a column is missing, which cannot be.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Vec<Row>, String> {
        let column =
            |name: &str| batch.column_by_name(name).ok_or_else(|| format!("column `{name}` is missing"));
        let optional = |chosen: &Option<Column>| chosen.as_ref().map(|(name, _)| column(name)).transpose();
        let image = optional(&self.image)?;
        let (caption, url) = (optional(&self.caption)?, optional(&self.url)?);
        let (key, meta) = (optional(&self.key)?, optional(&self.meta)?);
        let others = self.others.iter().map(|(name, _)| Ok((name.as_str(), column(name)?)));
        let others: Vec<(&str, &ArrayRef)> = others.collect::<Result<_, String>>()?;
        let (bytes, path) = image.map_or((None, None), split_image);
        let name = self.image.as_ref().map_or("", |(name, _)| name.as_str());
        let own = IMAGE_SUFFIXES.contains(&name).then(|| name.to_owned());
        let rows = (0..batch.num_rows()).map(|row| {
            let path = path.and_then(|path| name_of(path, row)).filter(|path| !path.is_empty());
            let (stem, suffix) = path.as_deref().map(split_stem).unwrap_or_default();
            let derived = (!stem.is_empty()).then(|| Label::Derived(stem.to_owned()));
            let declared = key.and_then(|column| name_of(column, row)).filter(|key| !key.trim().is_empty());
            let found = self.told((caption, url, meta), &others, row);
            Row {
                label: declared.map(Label::Declared).or(derived),
                image: bytes
                    .and_then(|bytes| binary(bytes, row))
                    .filter(|_| image.is_some_and(|i| i.is_valid(row))),
                suffix: Some(suffix).filter(|s| !s.is_empty()).or_else(|| own.clone()).unwrap_or_default(),
                ..found
            }
        });
        Ok(rows.collect())
    }

    /// What a row says beside image and key.
    fn told(
        &self,
        (caption, url, meta): (Option<&ArrayRef>, Option<&ArrayRef>, Option<&ArrayRef>),
        others: &[(&str, &ArrayRef)],
        row: usize,
    ) -> Row {
        let mut captions = caption.map(|column| captions(column, row)).unwrap_or_default();
        let mut url = url.and_then(|column| text(column, row)).filter(|url| !url.trim().is_empty());
        let (mut own, mut unreadable) = (None, None);
        match meta.map(|column| own_json(column, row)) {
            None => own = object(others, row),
            Some(None) => {}
            Some(Some(Err(why))) => unreadable = Some(why),
            Some(Some(Ok(document))) => {
                let (also, address) = told::of_object(&document);
                url = url.or(address);
                own = Some(match (&self.caption, captions.len()) {
                    (Some((name, _)), 2..) => document.with(name, &Value::from(captions.clone()).to_string()),
                    _ => document.into_text(),
                });
                if captions.iter().all(|text| text.trim().is_empty()) {
                    captions = also;
                }
            }
        }
        Row { label: None, image: None, suffix: String::new(), captions, url, meta: own, unreadable }
    }
}

/// The captions of a row: a text, or a list of texts.
fn captions(column: &ArrayRef, row: usize) -> Vec<String> {
    if is_text(column.data_type()) {
        return text(column, row).into_iter().collect();
    }
    told::captions_of(&json::value(column, row).to_string())
}

/// The row's own JSON: a text, or a struct. None where there is none.
fn own_json(column: &ArrayRef, row: usize) -> Option<Result<Document, String>> {
    if column.is_null(row) {
        return None;
    }
    let text =
        if is_text(column.data_type()) { text(column, row)? } else { json::value(column, row).to_string() };
    (!text.trim().is_empty()).then(|| Document::read(text.as_bytes()))
}

/// Whether a table has what its format needs.
fn check(
    format: InputFormat,
    has_image: bool,
    url: Option<&(String, usize)>,
    names: &str,
) -> Result<(), String> {
    let lacks =
        |what: &str, key: &str| Err(format!("no column {what}; there are: {names}. Name it with {key}"));
    match (format, has_image, url) {
        (InputFormat::UrlList, _, None) => lacks("of addresses", "input.url_column"),
        (InputFormat::Parquet, false, Some((url, _))) => lacks(
            "of image bytes",
            &format!("input.image_column, or fetch what `{url}` names with input.format = \"url_list\""),
        ),
        (_, false, None) => lacks("of image bytes or addresses", "input.image_column or input.url_column"),
        _ => Ok(()),
    }
}

fn is_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_image_struct(kind: &DataType) -> bool {
    let DataType::Struct(fields) = kind else { return false };
    let child = |name: &str| fields.iter().find(|field| field.name() == name);
    child("bytes").is_some_and(|field| is_bytes(field.data_type())) && child("path").is_some()
}

fn is_image(kind: &DataType) -> bool {
    is_bytes(kind) || is_image_struct(kind)
}

/// Bytes too: writers without logical types leave strings as bytes.
fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) || is_bytes(kind)
}

fn is_key(kind: &DataType) -> bool {
    is_text(kind) || kind.is_integer()
}

fn is_list(kind: &DataType) -> bool {
    matches!(kind, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _))
}

/// Text, or a list of texts or of structs that hold one.
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

/// JSON as text, or a struct that becomes JSON.
fn is_meta(kind: &DataType) -> bool {
    is_text(kind) || matches!(kind, DataType::Struct(_) | DataType::Map(_, _)) && json::has_json(kind)
}

/// Bytes and, where there is one, path.
fn split_image(image: &ArrayRef) -> (Option<&ArrayRef>, Option<&ArrayRef>) {
    match image.as_any().downcast_ref::<StructArray>() {
        Some(parts) => (parts.column_by_name("bytes"), parts.column_by_name("path")),
        None => (Some(image), None),
    }
}

fn binary(column: &ArrayRef, row: usize) -> Option<Bytes> {
    if column.is_null(row) {
        return None;
    }
    // A copy: a slice would keep the whole batch alive as long as its smallest image.
    let any = column.as_any();
    let bytes = match any.downcast_ref::<BinaryArray>() {
        Some(column) => column.value(row),
        None => match column.data_type() {
            DataType::LargeBinary => column.as_binary::<i64>().value(row),
            DataType::BinaryView => column.as_binary_view().value(row),
            _ => return None,
        },
    };
    Some(Bytes::copy_from_slice(bytes))
}

pub fn text(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    if let Some(column) = column.as_any().downcast_ref::<StringArray>() {
        return Some(column.value(row).to_owned());
    }
    match column.data_type() {
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row).to_owned()),
        DataType::Utf8View => Some(column.as_string_view().value(row).to_owned()),
        _ => binary(column, row).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// A name, or a number as text.
fn name_of(column: &ArrayRef, row: usize) -> Option<String> {
    if is_bytes(column.data_type()) {
        return binary(column, row).map(|bytes| name_text(&bytes));
    }
    text(column, row).or_else(|| match json::value(column, row) {
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

/// The rest of a row as one object, in the table's order; `None` where there is no rest.
fn object(columns: &[(&str, &ArrayRef)], row: usize) -> Option<String> {
    if columns.is_empty() {
        return None;
    }
    let fields = columns.iter().map(|(name, column)| ((*name).to_owned(), json::value(column, row)));
    Some(Value::Object(fields.collect::<Map<_, _>>()).to_string())
}
