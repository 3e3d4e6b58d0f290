//! Metadata of Hugging Face's imagefolder: `metadata.jsonl`, `metadata.csv` and `metadata.parquet`.
//!
//! A metadata file describes the images in its folder and below by `file_name`, a path relative to that folder. Malformed rows
//! are skipped and counted.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::table::json_of_row;
use crate::{
    captions::{captions_and_url, text_of},
    columns::{self, CAPTION},
    format::{MetadataKind, is_image_name},
    json::Document,
    lists::delimited::{Record, RecordParser, RecordSink},
};

/// Metadata files in the cache, for folders that share one.
const CACHE_ENTRIES: usize = 4;
/// The field that names the image.
const FILE_NAME: &str = "file_name";
/// End of that field's name in datasets with several image features.
const FILE_NAME_SUFFIX: &str = "_file_name";

/// The metadata of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageMetadata {
    /// Captions, some or all of which may be blank.
    pub(super) captions: Vec<String>,
    /// The whole row, valid JSON.
    pub(super) json: String,
}

/// A parsed metadata file.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    images: HashMap<String, ImageMetadata>,
    /// Number of malformed rows.
    pub(super) malformed: u64,
    /// What is wrong with the first of them.
    pub(super) first_error: Option<String>,
}

impl Metadata {
    /// Returns the metadata of the image at a path relative to the file's folder.
    pub(super) fn get(&self, path: &str) -> Option<&ImageMetadata> {
        self.images.get(path)
    }

    fn add(&mut self, name: &str, image: ImageMetadata) {
        // Windows separates folders by backslashes.
        let name = if name.contains('/') { name.to_owned() } else { name.replace('\\', "/") };
        self.images.insert(name.trim_start_matches("./").to_owned(), image);
    }

    /// Counts a malformed row.
    pub(super) fn count_malformed(&mut self, at: &str, error: &str) {
        self.malformed += 1;
        self.first_error.get_or_insert_with(|| format!("{at}: {error}"));
    }
}

/// Cache of the metadata files of a run. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MetadataCache(Arc<Mutex<Vec<CacheEntry>>>);

/// A metadata file, by its URL, size and tag.
type CacheEntry = (String, Arc<Metadata>);

impl MetadataCache {
    /// Returns the metadata of the file `name`, which is loaded if it is not in the cache.
    pub(super) async fn get_or_load<E>(
        &self,
        name: String,
        load: impl Future<Output = Result<Metadata, E>>,
    ) -> Result<Arc<Metadata>, E> {
        let mut entries = self.0.lock().await;
        if let Some((_, found)) = entries.iter().find(|(known, _)| *known == name) {
            return Ok(Arc::clone(found));
        }
        let metadata = Arc::new(load.await?);
        if entries.len() == CACHE_ENTRIES {
            entries.remove(0);
        }
        entries.push((name, Arc::clone(&metadata)));
        Ok(metadata)
    }
}

/// Parses a metadata file. Malformed rows are counted.
pub(super) fn parse(bytes: Bytes, kind: MetadataKind) -> Metadata {
    match kind {
        MetadataKind::JsonLines => parse_json_lines(&bytes),
        MetadataKind::Csv => parse_csv(&bytes),
        MetadataKind::Parquet => parse_parquet(bytes),
    }
}

fn parse_json_lines(bytes: &[u8]) -> Metadata {
    let mut metadata = Metadata::default();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match parse_json_line(line) {
            Ok((name, image)) => metadata.add(&name, image),
            Err(error) => metadata.count_malformed(&format!("line {}", number + 1), &error),
        }
    }
    metadata
}

fn parse_json_line(line: &[u8]) -> Result<(String, ImageMetadata), String> {
    let document = Document::read(line.trim_ascii())?;
    let Some(at) = file_name_index(document.names()) else { return Err(format!("no `{FILE_NAME}`")) };
    let name = text_of(document.value(at)).ok_or_else(|| format!("`{FILE_NAME}` is no text"))?;
    let (captions, _) = captions_and_url(&document);
    Ok((name, ImageMetadata { captions, json: document.into_text() }))
}

/// Returns the index of the field that names the image.
fn file_name_index<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<usize> {
    columns::find(names.clone(), &[FILE_NAME])
        .or_else(|| names.clone().position(|name| name.to_ascii_lowercase().ends_with(FILE_NAME_SUFFIX)))
}

/// Collects the records of `metadata.csv`.
#[derive(Default)]
struct CsvRows {
    header: Option<(Vec<String>, usize)>,
    row: u64,
    metadata: Metadata,
}

impl RecordSink for CsvRows {
    fn push_record(&mut self, Record { fields, error, .. }: Record) -> Result<(), String> {
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        let Some((names, file)) = &self.header else {
            let names: Vec<String> = fields.iter().map(|name| text(name).trim().to_owned()).collect();
            let file = file_name_index(names.iter().map(String::as_str));
            let file =
                file.ok_or_else(|| format!("no column `{FILE_NAME}`; there are: {}", names.join(", ")))?;
            self.header = Some((names, file));
            return Ok(());
        };
        self.row += 1;
        let error = error.or_else(|| {
            let (here, there) = (fields.len(), names.len());
            (here != there).then(|| format!("{here} values, the header row has {there}"))
        });
        if let Some(error) = error {
            self.metadata.count_malformed(&format!("row {}", self.row), &error);
            return Ok(());
        }
        let object: Map<String, Value> = names
            .iter()
            .zip(&fields)
            .map(|(name, field)| (name.clone(), Value::String(text(field))))
            .collect();
        let captions = columns::find(names.iter().map(String::as_str), &CAPTION).map(|at| text(&fields[at]));
        let image = ImageMetadata {
            captions: captions.into_iter().collect(),
            json: Value::Object(object).to_string(),
        };
        let name = text(&fields[*file]);
        self.metadata.add(&name, image);
        Ok(())
    }

    fn is_row(&self, fields: &[&[u8]]) -> bool {
        let Some((names, file)) = &self.header else { return false };
        let name = fields.get(*file).copied().unwrap_or_default();
        fields.len() == names.len() && is_image_name(&String::from_utf8_lossy(name))
    }
}

fn parse_csv(bytes: &[u8]) -> Metadata {
    let (mut records, mut rows) = (RecordParser::new(b','), CsvRows::default());
    let parsed = records.push(bytes, &mut rows).and_then(|()| records.finish(&mut rows));
    if let Err(error) = parsed {
        rows.metadata.count_malformed("the header row", &error);
    }
    rows.metadata
}

fn parse_parquet(bytes: Bytes) -> Metadata {
    let mut metadata = Metadata::default();
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read_table(bytes, &mut metadata)));
    match read {
        Ok(Ok(())) => {}
        Ok(Err(error)) => metadata.count_malformed("the table", &error),
        Err(_) => metadata.count_malformed("the table", "the decoder panicked on these bytes"),
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
        let file = file_name_index(names).ok_or_else(|| format!("no column `{FILE_NAME}`"))?;
        for row in 0..batch.num_rows() {
            let object = json_of_row(&batch, row);
            let Some(name) = object.get(schema.field(file).name()).and_then(Value::as_str).map(str::to_owned)
            else {
                metadata.count_malformed(&format!("row {row}"), &format!("`{FILE_NAME}` is no text"));
                continue;
            };
            let json = Value::Object(object).to_string();
            let captions = Document::read(json.as_bytes()).map(|document| captions_and_url(&document).0);
            metadata.add(&name, ImageMetadata { captions: captions.unwrap_or_default(), json });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_are_found_by_file_name() {
        let text = b"{\"file_name\": \"a.png\", \"text\": \"a cat\"}\n\n{\"file_name\": \"./sub/b.png\", \"n\": NaN}\n{\n{}\n\
                     {\"file_name\": 1}\n{\"image_file_name\":\"c\\\\d.png\",\"captions\":[\"x\",\"y\"]}";
        let metadata = parse_json_lines(text);
        assert_eq!(metadata.get("a.png").map(|image| image.captions.clone()), Some(vec!["a cat".to_owned()]));
        assert_eq!(
            metadata.get("sub/b.png").map(|image| image.json.as_str()),
            Some("{\"file_name\":\"./sub/b.png\",\"n\":null}")
        );
        assert_eq!(metadata.get("c/d.png").map(|image| image.captions.len()), Some(2));
        assert_eq!(metadata.get("1").map(|image| image.json.as_str()), Some("{\"file_name\": 1}"));
        assert_eq!(
            (metadata.malformed, metadata.first_error.as_deref()),
            (2, Some("line 4: it ends too early"))
        );
    }

    #[test]
    fn unclosed_quote_in_csv_costs_one_row() {
        let text = b"File_Name,text\na.png,a cat\nb.png,\"5 inch\nsub/c.png,a dog\nd.png\n";
        let metadata = parse_csv(text);
        assert_eq!(
            metadata.get("a.png").map(|image| image.json.as_str()),
            Some("{\"File_Name\":\"a.png\",\"text\":\"a cat\"}")
        );
        assert_eq!(metadata.get("sub/c.png").map(|image| image.captions[0].as_str()), Some("a dog"));
        assert_eq!(metadata.malformed, 2);
        let none = parse_csv(b"a,b\n1,2\n");
        assert!(
            none.malformed == 1 && none.first_error.is_some_and(|error| error.contains("there are: a, b"))
        );
        assert_eq!(parse_parquet(Bytes::from_static(b"PAR1 no table")).malformed, 1);
    }
}
