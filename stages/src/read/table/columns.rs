//! Which columns of a table are the image, its key, its caption, its address, and what of the rest becomes JSON.

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, RecordBatch, StringArray, StructArray, UInt8Array, UInt16Array, UInt32Array,
    UInt64Array, cast::AsArray,
};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    read::{Columns, InputFormat},
    webdataset::{IMAGE_SUFFIXES, NameClass, split_name},
};

const IMAGE: [&str; 8] = ["image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes"];
const CAPTION: [&str; 5] = ["caption", "text", "TEXT", "alt_text", "org_caption"];
const URL: [&str; 3] = ["url", "URL", "image_url"];
const KEY: [&str; 2] = ["key", "__key__"];
const META: [&str; 2] = ["meta", "json"];

/// A row on its way to be a sample.
pub struct Row {
    pub key: Option<String>,
    pub image: Option<Bytes>,
    pub suffix: String,
    pub caption: Option<String>,
    pub url: Option<String>,
    pub meta: Option<String>,
}

/// Columns by name, with their place among all.
#[derive(Debug)]
pub struct Chosen {
    /// None in a list of addresses.
    image: Option<(String, usize)>,
    caption: Option<(String, usize)>,
    url: Option<(String, usize)>,
    key: Option<(String, usize)>,
    /// The sample's own JSON.
    meta: Option<(String, usize)>,
    /// What becomes JSON where there is none.
    others: Vec<(String, usize)>,
}

impl Chosen {
    /// Chooses among a table's columns.
    ///
    /// # Errors
    /// A column that was told is not there or of another type; no column of image bytes.
    pub fn among(schema: &Schema, told: &Columns, format: InputFormat) -> Result<Self, String> {
        let names = || schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ");
        let find = |name: &str| schema.index_of(name).ok().map(|at| (name.to_owned(), at));
        let choose =
            |told: &Option<String>, key: &str, usual: &[&str], fits: fn(&DataType) -> bool| match told {
                Some(name) => match find(name) {
                    Some((name, at)) if fits(schema.field(at).data_type()) => Ok(Some((name, at))),
                    Some((name, at)) => {
                        Err(format!("column `{name}` ({key}) is of type {}", schema.field(at).data_type()))
                    }
                    None => Err(format!("no column `{name}` ({key}); there are: {}", names())),
                },
                None => Ok(usual
                    .iter()
                    .filter_map(|name| find(name))
                    .find(|(_, at)| fits(schema.field(*at).data_type()))),
            };
        let image = choose(&told.image, "input.image_column", &IMAGE, is_image)?;
        let image = image.or_else(|| {
            // Hugging Face's image feature has this form whatever its name.
            let at = schema.fields().iter().position(|field| is_image_struct(field.data_type()))?;
            Some((schema.field(at).name().clone(), at))
        });
        let caption = choose(&told.caption, "input.caption_column", &CAPTION, is_text)?;
        let url = choose(&told.url, "input.url_column", &URL, is_text)?;
        let key = choose(&told.key, "input.key_column", &KEY, is_key)?;
        let image = image.filter(|_| format != InputFormat::UrlList);
        check(format, image.is_some(), url.as_ref(), &names())?;
        let meta = choose(&None, "", &META, is_text)?;
        // The address of an image that is there is part of what is known of it; of one that is fetched it is the way.
        let address = url.as_ref().filter(|_| image.is_none());
        let used = [image.as_ref(), address, caption.as_ref(), key.as_ref()];
        let is_other = |at: usize| !used.iter().flatten().any(|(_, used)| *used == at);
        let others = if meta.is_some() {
            Vec::new()
        } else {
            let fields = schema.fields().iter().enumerate();
            fields
                .filter(|(at, f)| is_other(*at) && is_scalar(f.data_type()))
                .map(|(at, f)| (f.name().clone(), at))
                .collect()
        };
        Ok(Self { image, caption, url, key, meta, others })
    }

    /// Whether images are there, and not to be fetched.
    pub fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// Places of the columns that are read.
    pub fn roots(&self) -> Vec<usize> {
        let one = [
            self.image.as_ref(),
            self.caption.as_ref(),
            self.url.as_ref(),
            self.key.as_ref(),
            self.meta.as_ref(),
        ];
        one.into_iter().flatten().chain(&self.others).map(|(_, at)| *at).collect()
    }

    /// A batch's rows.
    ///
    /// # Errors
    /// When a column is missing, which cannot be.
    pub fn rows(&self, batch: &RecordBatch) -> Result<Vec<Row>, String> {
        let column =
            |name: &str| batch.column_by_name(name).ok_or_else(|| format!("column `{name}` is missing"));
        let optional =
            |chosen: &Option<(String, usize)>| chosen.as_ref().map(|(name, _)| column(name)).transpose();
        let image = optional(&self.image)?;
        let (caption, url) = (optional(&self.caption)?, optional(&self.url)?);
        let (key, meta) = (optional(&self.key)?, optional(&self.meta)?);
        let others = self.others.iter().map(|(name, _)| Ok((name.as_str(), column(name)?)));
        let others: Vec<(&str, &ArrayRef)> = others.collect::<Result<_, String>>()?;
        let (bytes, path) = image.map_or((None, None), split_image);
        let name = self.image.as_ref().map_or("", |(name, _)| name.as_str());
        let rows = (0..batch.num_rows()).map(|row| {
            let path = path.and_then(|path| text(path, row));
            let (named, suffix) = path.as_deref().map_or((None, None), |path| match split_name(path) {
                NameClass::Part { key, suffix } => (Some(key.to_owned()), Some(suffix)),
                _ => (None, None),
            });
            let own = IMAGE_SUFFIXES.contains(&name).then(|| name.to_owned());
            Row {
                key: key.and_then(|column| any_text(column, row)).or(named),
                image: bytes
                    .and_then(|bytes| binary(bytes, row))
                    .filter(|_| image.is_some_and(|i| i.is_valid(row))),
                suffix: suffix.or(own).unwrap_or_default(),
                caption: caption.and_then(|column| text(column, row)),
                url: url.and_then(|column| text(column, row)),
                meta: match meta {
                    Some(column) => text(column, row),
                    None => json(&others, row),
                },
            }
        });
        Ok(rows.collect())
    }
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

fn is_scalar(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Boolean
            | DataType::Float32
            | DataType::Float64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
    ) || kind.is_integer()
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

fn text(column: &ArrayRef, row: usize) -> Option<String> {
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

/// Text, or a number as text.
fn any_text(column: &ArrayRef, row: usize) -> Option<String> {
    text(column, row).or_else(|| match scalar(column, row) {
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

/// The rest of a row as one object, in the table's order; `None` where there is no rest.
fn json(columns: &[(&str, &ArrayRef)], row: usize) -> Option<String> {
    if columns.is_empty() {
        return None;
    }
    let fields = columns.iter().map(|(name, column)| ((*name).to_owned(), scalar(column, row)));
    Some(Value::Object(fields.collect::<Map<_, _>>()).to_string())
}

fn scalar(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    let any = column.as_any();
    macro_rules! number {
        ($($array:ty),*) => {
            $(if let Some(column) = any.downcast_ref::<$array>() {
                return Value::from(column.value(row));
            })*
        };
    }
    number!(Int64Array, Int32Array, UInt64Array, UInt32Array, Int16Array, UInt16Array, Int8Array, UInt8Array);
    number!(Float64Array, BooleanArray);
    if let Some(column) = any.downcast_ref::<Float32Array>() {
        // By way of its shortest text: 0.3 and not 0.30000001192092896.
        return column.value(row).to_string().parse::<f64>().map_or(Value::Null, Value::from);
    }
    text(column, row).map_or(Value::Null, Value::from)
}
