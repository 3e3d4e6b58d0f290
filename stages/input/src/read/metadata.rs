//! Hugging Face's metadata of image folders: `metadata.jsonl`, `metadata.csv` and `metadata.parquet`.
//!
//! Each tells of the images in its folder and below by `file_name`, a path from that folder. A row that cannot be read is
//! counted, and costs nobody else anything.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use object_store::{GetOptions, ObjectMeta};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::{ReadError, Reading, is_image_name, table::json_of};
use crate::{
    fetch::delimited::{Record, Records, Rows},
    json::Document,
    told::{self, CAPTION},
};
use recaption_store::{ErrorKind, user_message};

/// Largest metadata file, bytes: it is held in memory.
const MAX_BYTES: u64 = 1 << 30;
/// Metadata files of one run that are kept, for folders that share one.
const KEPT: usize = 4;
/// The field that names the image.
const FILE_NAME: &str = "file_name";
/// What other features call it.
const FILE_NAME_ENDING: &str = "_file_name";

/// Form of a metadata file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetadataKind {
    /// `metadata.jsonl`.
    JsonLines,
    /// `metadata.csv`.
    Csv,
    /// `metadata.parquet`.
    Parquet,
}

impl MetadataKind {
    /// By a file's name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "metadata.jsonl" => Some(Self::JsonLines),
            "metadata.csv" => Some(Self::Csv),
            "metadata.parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// What a metadata file says of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Captions, none of which may be one.
    pub captions: Vec<String>,
    /// All of it, valid JSON.
    pub json: String,
}

/// A metadata file.
#[derive(Debug, Default)]
pub struct Metadata {
    lines: HashMap<String, Line>,
    /// Rows that could not be read.
    pub unreadable: u64,
    /// What was wrong with the first of them.
    why: Option<String>,
}

impl Metadata {
    /// What is said of a path from its folder.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Line> {
        self.lines.get(path)
    }

    fn add(&mut self, name: &str, line: Line) {
        // Windows separates by backslashes.
        let name = if name.contains('/') { name.to_owned() } else { name.replace('\\', "/") };
        self.lines.insert(name.trim_start_matches("./").to_owned(), line);
    }

    fn bad(&mut self, at: &str, why: &str) {
        self.unreadable += 1;
        self.why.get_or_insert_with(|| format!("{at}: {why}"));
    }
}

/// Metadata files that were read. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MetadataCache(Arc<Mutex<Vec<Kept>>>);

/// A metadata file, by its name, size and tag.
type Kept = (String, Arc<Metadata>);

impl MetadataCache {
    /// The metadata that a file holds.
    pub(super) async fn get(
        &self,
        reading: Reading<'_>,
        meta: &ObjectMeta,
        kind: MetadataKind,
    ) -> Result<Arc<Metadata>, ReadError> {
        let url = reading.shard.location.url_of(&meta.location);
        let name = format!("{url} {} {:?} {}", meta.size, meta.e_tag, meta.last_modified);
        let mut kept = self.0.lock().await;
        if let Some((_, found)) = kept.iter().find(|(known, _)| *known == name) {
            return Ok(Arc::clone(found));
        }
        let metadata = Arc::new(load(reading, meta, kind, &url).await?);
        if let Some(why) = &metadata.why {
            tracing::warn!(
                file = url,
                rows = metadata.unreadable,
                first = why,
                "rows of metadata cannot be read"
            );
        }
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((name, Arc::clone(&metadata)));
        Ok(metadata)
    }
}

async fn load(
    reading: Reading<'_>,
    meta: &ObjectMeta,
    kind: MetadataKind,
    url: &str,
) -> Result<Metadata, ReadError> {
    if meta.size > MAX_BYTES {
        return Err(reading.data(&format!("{url} has {} bytes, more than {MAX_BYTES}: split it", meta.size)));
    }
    let options = GetOptions::new().with_if_match(meta.e_tag.clone());
    let got = match reading.shard.location.store.get_opts(&meta.location, options).await {
        Ok(got) => got.bytes().await,
        Err(error) => Err(error),
    };
    let bytes = match got {
        Ok(bytes) => bytes,
        Err(error) if ErrorKind::is_of_one_object(&error) => {
            let mut metadata = Metadata::default();
            metadata.bad("the file", &user_message(&error));
            return Ok(metadata);
        }
        Err(error) => return Err(reading.transport(&error)),
    };
    reading.bytes_read.fetch_add(bytes.len() as u64, Relaxed);
    let parsed = tokio::task::spawn_blocking(move || parse(bytes, kind)).await;
    parsed.map_err(|e| reading.data(&format!("{url} cannot be read: {e}")))
}

fn parse(bytes: Bytes, kind: MetadataKind) -> Metadata {
    match kind {
        MetadataKind::JsonLines => of_lines(&bytes),
        MetadataKind::Csv => of_values(&bytes),
        MetadataKind::Parquet => of_table(bytes),
    }
}

fn of_lines(bytes: &[u8]) -> Metadata {
    let mut metadata = Metadata::default();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match of_line(line) {
            Ok((name, line)) => metadata.add(&name, line),
            Err(why) => metadata.bad(&format!("line {}", number + 1), &why),
        }
    }
    metadata
}

fn of_line(line: &[u8]) -> Result<(String, Line), String> {
    let document = Document::read(line.trim_ascii())?;
    let Some(at) = file_name(document.names()) else { return Err(format!("no `{FILE_NAME}`")) };
    let name = told::text_of(document.value(at)).ok_or_else(|| format!("`{FILE_NAME}` is no text"))?;
    let (captions, _) = told::of_object(&document);
    Ok((name, Line { captions, json: document.into_text() }))
}

/// The place of the name that tells the file.
fn file_name<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<usize> {
    told::find(names.clone(), &[FILE_NAME])
        .or_else(|| names.clone().position(|name| name.to_ascii_lowercase().ends_with(FILE_NAME_ENDING)))
}

/// Takes the records of `metadata.csv`.
#[derive(Default)]
struct Values {
    header: Option<(Vec<String>, usize)>,
    row: u64,
    metadata: Metadata,
}

impl Rows for Values {
    fn record(&mut self, Record { fields, bad, .. }: Record) -> Result<(), String> {
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        let Some((names, file)) = &self.header else {
            let names: Vec<String> = fields.iter().map(|name| text(name).trim().to_owned()).collect();
            let file = file_name(names.iter().map(String::as_str));
            let file =
                file.ok_or_else(|| format!("no column `{FILE_NAME}`; there are: {}", names.join(", ")))?;
            self.header = Some((names, file));
            return Ok(());
        };
        self.row += 1;
        let bad = bad.or_else(|| {
            let (here, there) = (fields.len(), names.len());
            (here != there).then(|| format!("{here} values, the row of names has {there}"))
        });
        if let Some(why) = bad {
            self.metadata.bad(&format!("row {}", self.row), &why);
            return Ok(());
        }
        let object: Map<String, Value> = names
            .iter()
            .zip(&fields)
            .map(|(name, field)| (name.clone(), Value::String(text(field))))
            .collect();
        let captions = told::find(names.iter().map(String::as_str), &CAPTION).map(|at| text(&fields[at]));
        let line = Line { captions: captions.into_iter().collect(), json: Value::Object(object).to_string() };
        let name = text(&fields[*file]);
        self.metadata.add(&name, line);
        Ok(())
    }

    fn is_row(&self, fields: &[&[u8]]) -> bool {
        let Some((names, file)) = &self.header else { return false };
        let name = fields.get(*file).copied().unwrap_or_default();
        fields.len() == names.len() && is_image_name(&String::from_utf8_lossy(name))
    }
}

fn of_values(bytes: &[u8]) -> Metadata {
    let (mut records, mut values) = (Records::new(b','), Values::default());
    let read = records.push(bytes, &mut values).and_then(|()| records.finish(&mut values));
    if let Err(why) = read {
        values.metadata.bad("the row of names", &why);
    }
    values.metadata
}

fn of_table(bytes: Bytes) -> Metadata {
    let mut metadata = Metadata::default();
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read_table(bytes, &mut metadata)));
    match read {
        Ok(Ok(())) => {}
        Ok(Err(why)) => metadata.bad("the table", &why),
        Err(_) => metadata.bad("the table", "the decoder panicked on these bytes"),
    }
    metadata
}

fn read_table(bytes: Bytes, metadata: &mut Metadata) -> Result<(), String> {
    let message = |e: &dyn std::fmt::Display| e.to_string();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| message(&e))?;
    for batch in reader.build().map_err(|e| message(&e))? {
        let batch = batch.map_err(|e| message(&e))?;
        let schema = batch.schema();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let file = file_name(names).ok_or_else(|| format!("no column `{FILE_NAME}`"))?;
        for row in 0..batch.num_rows() {
            let object = json_of(&batch, row);
            let Some(name) = object.get(schema.field(file).name()).and_then(Value::as_str).map(str::to_owned)
            else {
                metadata.bad(&format!("row {row}"), &format!("`{FILE_NAME}` is no text"));
                continue;
            };
            let json = Value::Object(object).to_string();
            let captions = Document::read(json.as_bytes()).map(|document| told::of_object(&document).0);
            metadata.add(&name, Line { captions: captions.unwrap_or_default(), json });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_file_name_and_bad_ones_counted() {
        let text = b"{\"file_name\": \"a.png\", \"text\": \"a cat\"}\n\n{\"file_name\": \"./sub/b.png\", \"n\": NaN}\n{\n{}\n\
                     {\"file_name\": 1}\n{\"image_file_name\":\"c\\\\d.png\",\"captions\":[\"x\",\"y\"]}";
        let metadata = of_lines(text);
        assert_eq!(metadata.get("a.png").map(|line| line.captions.clone()), Some(vec!["a cat".to_owned()]));
        assert_eq!(
            metadata.get("sub/b.png").map(|line| line.json.as_str()),
            Some("{\"file_name\":\"./sub/b.png\",\"n\":null}")
        );
        assert_eq!(metadata.get("c/d.png").map(|line| line.captions.len()), Some(2));
        assert_eq!(metadata.get("1").map(|line| line.json.as_str()), Some("{\"file_name\": 1}"));
        assert_eq!((metadata.unreadable, metadata.why.as_deref()), (2, Some("line 4: it ends too early")));
    }

    #[test]
    fn rows_of_values_too_and_an_open_quote_costs_one() {
        let text = b"File_Name,text\na.png,a cat\nb.png,\"5 inch\nsub/c.png,a dog\nd.png\n";
        let metadata = of_values(text);
        assert_eq!(
            metadata.get("a.png").map(|line| line.json.as_str()),
            Some("{\"File_Name\":\"a.png\",\"text\":\"a cat\"}")
        );
        assert_eq!(metadata.get("sub/c.png").map(|line| line.captions[0].as_str()), Some("a dog"));
        assert_eq!(metadata.unreadable, 2);
        let none = of_values(b"a,b\n1,2\n");
        assert!(none.unreadable == 1 && none.why.is_some_and(|why| why.contains("there are: a, b")));
        assert_eq!(of_table(Bytes::from_static(b"PAR1 no table")).unreadable, 1);
    }
}
