//! Samples -> a Parquet file with the columns of a preset.

use std::{collections::HashMap, sync::Arc};

use arrow_array::{
    ArrayRef, BinaryArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};
use recaption_output::{CaptionRows, PartWriter, webdataset::image_suffix};
use recaption_schemas::metadata_keys;
use recaption_store::Location;

use super::{
    job::{ColumnPreset, ConvertJob},
    record::WrittenFile,
    samples::Sample,
};

/// Rows gathered before they are encoded.
const BATCH_ROWS: usize = 1024;
/// Image bytes gathered before they are encoded.
const BATCH_BYTES: usize = 4 << 20;

/// A Parquet file being written.
pub(super) struct ParquetSink {
    preset: ColumnPreset,
    /// Whether the `text` column is drawn again.
    blends: bool,
    schema: SchemaRef,
    writer: PartWriter,
    gathered: Vec<Sample>,
    bytes: usize,
}

impl ParquetSink {
    /// Starts the file at `path`. `source` is the schema of the source's rows.
    ///
    /// # Errors
    /// When the columns cannot be written.
    pub(super) fn open(
        job: &ConvertJob,
        target: &Location,
        path: &str,
        source: &SchemaRef,
    ) -> anyhow::Result<Self> {
        let schema = match (job.columns, job.blend) {
            (ColumnPreset::Recaption, None) => Arc::clone(source),
            (ColumnPreset::Recaption, Some(blend)) => Arc::new(with_text(source, &blend.to_metadata())),
            (preset, _) => Arc::new(schema_of(preset)),
        };
        let writer = PartWriter::at(target, path, Arc::clone(&schema))?;
        let blends = job.blend.is_some();
        Ok(Self { preset: job.columns, blends, schema, writer, gathered: Vec::new(), bytes: 0 })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When rows cannot be written.
    pub(super) async fn push(&mut self, sample: Sample) -> anyhow::Result<()> {
        self.bytes += sample.image.len();
        // Rows that are copied are those of one batch, in its order.
        let continues =
            self.gathered.last().is_none_or(|last| Arc::ptr_eq(&last.row.batch, &sample.row.batch));
        if self.preset == ColumnPreset::Recaption && !continues {
            self.flush().await?;
        }
        self.gathered.push(sample);
        if self.gathered.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Completes the file.
    ///
    /// # Errors
    /// When rows cannot be written.
    pub(super) async fn finish(mut self) -> anyhow::Result<WrittenFile> {
        self.flush().await?;
        Ok(self.writer.finish().await?.into())
    }

    /// Aborts the file.
    pub(super) async fn abort(self) {
        self.writer.abort().await;
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let samples = std::mem::take(&mut self.gathered);
        self.bytes = 0;
        if samples.is_empty() {
            return Ok(());
        }
        let batch = match self.preset {
            ColumnPreset::Recaption => self.copied(&samples)?,
            ColumnPreset::Laion => RecordBatch::try_new(Arc::clone(&self.schema), laion(&samples))?,
            ColumnPreset::Img2dataset => {
                RecordBatch::try_new(Arc::clone(&self.schema), img2dataset(&samples))?
            }
            ColumnPreset::Hf => RecordBatch::try_new(Arc::clone(&self.schema), images(&samples)?)?,
        };
        Ok(self.writer.write(batch).await?)
    }

    /// Returns rows of one batch as they are; with a blend, with its texts.
    fn copied(&self, samples: &[Sample]) -> Result<RecordBatch, ArrowError> {
        let (first, length) = (&samples[0].row, samples.len());
        let rows = first.batch.batch.slice(first.row, length);
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            match rows.column_by_name(field.name()) {
                Some(column) if !self.blends || field.name() != "text" => columns.push(Arc::clone(column)),
                _ => columns.push(texts(samples)),
            }
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

/// Returns the source's schema with the text column and the blend that fills it.
fn with_text(source: &Schema, blend: &str) -> Schema {
    let mut metadata = source.metadata().clone();
    metadata.insert(metadata_keys::BLEND.to_owned(), blend.to_owned());
    let mut fields = source.fields().to_vec();
    if source.index_of("text").is_err() {
        fields.push(Arc::new(Field::new("text", DataType::Utf8, false)));
        // The description of features would lack the column; readers infer it.
        metadata.remove("huggingface");
    }
    Schema::new_with_metadata(fields, metadata)
}

/// Returns the columns of a preset with their types. Those of LAION and img2dataset are nullable, as in their own files.
fn schema_of(preset: ColumnPreset) -> Schema {
    let (utf8, int) = (DataType::Utf8, DataType::Int32);
    let fields = |columns: &[(&str, &DataType)]| -> Vec<Field> {
        columns.iter().map(|(name, kind)| Field::new(*name, (*kind).clone(), true)).collect()
    };
    match preset {
        // The source's own.
        ColumnPreset::Recaption => Schema::empty(),
        ColumnPreset::Laion => Schema::new(fields(&[
            ("URL", &utf8),
            ("TEXT", &utf8),
            ("WIDTH", &int),
            ("HEIGHT", &int),
            ("similarity", &DataType::Float32),
            ("hash", &DataType::Int64),
            ("key", &utf8),
            ("sha256", &utf8),
        ])),
        ColumnPreset::Img2dataset => Schema::new(fields(&[
            ("url", &utf8),
            ("caption", &utf8),
            ("key", &utf8),
            ("status", &utf8),
            ("error_message", &utf8),
            ("width", &int),
            ("height", &int),
            ("original_width", &int),
            ("original_height", &int),
            ("exif", &utf8),
            ("sha256", &utf8),
            ("similarity", &DataType::Float32),
            ("org_caption", &utf8),
        ])),
        ColumnPreset::Hf => {
            let image = Field::new("image", DataType::Struct(image_fields()), true);
            let features = serde_json::json!({"info": {"features": {
                "image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}}});
            let metadata = HashMap::from([("huggingface".to_owned(), features.to_string())]);
            Schema::new_with_metadata(vec![image, Field::new("text", utf8, true)], metadata)
        }
    }
}

fn image_fields() -> Fields {
    Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)])
}

fn texts(samples: &[Sample]) -> ArrayRef {
    Arc::new(samples.iter().map(|sample| Some(sample.text.as_str())).collect::<StringArray>())
}

/// Returns a column of strings.
fn strings<'a>(samples: &'a [Sample], value: impl Fn(&'a CaptionRows, usize) -> Option<&'a str>) -> ArrayRef {
    let values = samples.iter().map(|sample| value(&sample.row.batch.rows, sample.row.row));
    Arc::new(values.collect::<StringArray>())
}

/// Returns a column of whole numbers.
fn numbers(samples: &[Sample], value: impl Fn(&CaptionRows, usize) -> i32) -> ArrayRef {
    let values = samples.iter().map(|sample| value(&sample.row.batch.rows, sample.row.row));
    Arc::new(values.collect::<Int32Array>())
}

fn similarities(samples: &[Sample]) -> ArrayRef {
    let values = samples.iter().map(|sample| sample.row.batch.rows.similarity(sample.row.row));
    Arc::new(values.collect::<Float32Array>())
}

fn keys(samples: &[Sample]) -> ArrayRef {
    Arc::new(samples.iter().map(|sample| Some(sample.key.as_str())).collect::<StringArray>())
}

fn laion(samples: &[Sample]) -> Vec<ArrayRef> {
    // LAION's own hash cannot be computed from what is known here; this one identifies the image.
    let hash = |sha256: &str| {
        let bits = sha256.get(..16).and_then(|start| u64::from_str_radix(start, 16).ok());
        bits.map(u64::cast_signed)
    };
    let hashes = samples.iter().map(|sample| hash(sample.row.batch.rows.sha256(sample.row.row)));
    vec![
        strings(samples, CaptionRows::url),
        texts(samples),
        numbers(samples, CaptionRows::width),
        numbers(samples, CaptionRows::height),
        similarities(samples),
        Arc::new(hashes.collect::<Int64Array>()),
        keys(samples),
        strings(samples, |rows, row| Some(rows.sha256(row))),
    ]
}

fn img2dataset(samples: &[Sample]) -> Vec<ArrayRef> {
    vec![
        strings(samples, CaptionRows::url),
        texts(samples),
        keys(samples),
        strings(samples, |_, _| Some("success")),
        strings(samples, |_, _| None),
        numbers(samples, CaptionRows::width),
        numbers(samples, CaptionRows::height),
        numbers(samples, CaptionRows::width),
        numbers(samples, CaptionRows::height),
        strings(samples, |_, _| None),
        strings(samples, |rows, row| Some(rows.sha256(row))),
        similarities(samples),
        strings(samples, CaptionRows::org_caption),
    ]
}

fn images(samples: &[Sample]) -> Result<Vec<ArrayRef>, ArrowError> {
    let bytes: BinaryArray = samples.iter().map(|sample| Some(sample.image.as_ref())).collect();
    let name = |sample: &Sample| Some(format!("{}.{}", sample.key, image_suffix(&sample.image)));
    let paths: StringArray = samples.iter().map(name).collect();
    let image = StructArray::try_new(image_fields(), vec![Arc::new(bytes), Arc::new(paths)], None)?;
    Ok(vec![Arc::new(image), texts(samples)])
}
