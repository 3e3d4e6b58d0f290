//! Arrow schemas of the output and the builders that fill them. Column order and types are a contract: version 2
//! has the columns of version 1; what its keys, `org_caption` and `meta` hold changed (see CHANGELOG).

use std::{collections::HashMap, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{
        ArrayBuilder, BinaryBuilder, Float32Builder, Int32Builder, ListBuilder, StringBuilder, StructBuilder,
    },
};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};

use crate::{Blend, CaptionRow, EmbeddedImage, MatchProbability, Reject, ShardBlend, Similarity};

/// Version of the output schema, in the file metadata.
pub const CAPTION_SCHEMA_VERSION: &str = "2";

/// Names of the file metadata entries.
pub mod metadata_keys {
    /// [`super::CAPTION_SCHEMA_VERSION`].
    pub const SCHEMA_VERSION: &str = "recaption.schema_version";
    /// Digest of the captioner.
    pub const MODEL: &str = "recaption.model";
    /// Digest of the scorer, if it is another model.
    pub const SCORER: &str = "recaption.scorer";
    /// Parameters of generation and the seed, as JSON.
    pub const DECODE: &str = "recaption.decode";
    /// Probability and seed of the `text` column's draws, as JSON; absent without that column.
    pub const BLEND: &str = "recaption.blend";
    /// The second passes that led to this file, as a JSON list; absent in a run's own output.
    pub const FILTER: &str = "recaption.filter";
}

fn candidate_fields() -> Fields {
    Fields::from(vec![
        Field::new("text", DataType::Utf8, false),
        Field::new("similarity", DataType::Float32, false),
        Field::new("logprob", DataType::Float32, false),
    ])
}

fn image_fields() -> Fields {
    Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)])
}

fn candidate_item() -> Field {
    Field::new("item", DataType::Struct(candidate_fields()), false)
}

/// Columns of `captions/` that a configuration adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddedColumns {
    /// `org_itm`, the probability that image and original caption match.
    pub org_itm: bool,
    /// `image`, the stored images.
    pub image: bool,
}

/// Returns the schema of `captions/`. `metadata` becomes the file metadata, and a [`Blend`] in it adds the text column.
#[must_use]
pub fn caption_schema(added: AddedColumns, metadata: HashMap<String, String>) -> Schema {
    let mut fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("shard", DataType::Utf8, false),
        Field::new("caption", DataType::Utf8, false),
        Field::new("similarity", DataType::Float32, false),
        Field::new("org_caption", DataType::Utf8, true),
        Field::new("org_similarity", DataType::Float32, true),
        Field::new("candidates", DataType::List(Arc::new(candidate_item())), false),
        Field::new("itm", DataType::Float32, true),
        Field::new("width", DataType::Int32, false),
        Field::new("height", DataType::Int32, false),
        Field::new("sha256", DataType::Utf8, false),
        Field::new("url", DataType::Utf8, true),
        Field::new("meta", DataType::Utf8, true),
    ];
    let mut metadata = metadata;
    if added.org_itm {
        fields.push(Field::new("org_itm", DataType::Float32, true));
    }
    if metadata.contains_key(metadata_keys::BLEND) {
        fields.push(Field::new("text", DataType::Utf8, false));
    }
    if added.image {
        fields.push(Field::new("image", DataType::Struct(image_fields()), true));
        // With this entry, Hugging Face `datasets` shows the column as images.
        metadata.insert("huggingface".into(), huggingface_features(&fields));
    }
    Schema::new_with_metadata(fields, metadata)
}

/// Returns the feature description of Hugging Face `datasets`, which needs every column if one is described.
fn huggingface_features(fields: &[Field]) -> String {
    let value = |dtype: &str| serde_json::json!({"dtype": dtype, "_type": "Value"});
    let mut features = serde_json::Map::new();
    for field in fields {
        let feature = match field.data_type() {
            DataType::Float32 => value("float32"),
            DataType::Int32 => value("int32"),
            DataType::List(_) => serde_json::json!({"_type": "List", "feature": {
                "text": value("string"), "similarity": value("float32"), "logprob": value("float32")}}),
            DataType::Struct(_) => serde_json::json!({"_type": "Image"}),
            _ => value("string"),
        };
        features.insert(field.name().clone(), feature);
    }
    serde_json::json!({"info": {"features": features}}).to_string()
}

/// Returns the schema of `rejects/`.
#[must_use]
pub fn reject_schema(metadata: HashMap<String, String>) -> Schema {
    let fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("shard", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("caption", DataType::Utf8, true),
        Field::new("similarity", DataType::Float32, true),
        Field::new("org_caption", DataType::Utf8, true),
    ];
    Schema::new_with_metadata(fields, metadata)
}

/// Collects the caption rows of one shard into record batches.
#[derive(Debug)]
pub struct CaptionTable {
    schema: Arc<Schema>,
    shard: String,
    bytes: usize,
    key: StringBuilder,
    shards: StringBuilder,
    caption: StringBuilder,
    similarity: Float32Builder,
    org_caption: StringBuilder,
    org_similarity: Float32Builder,
    candidates: ListBuilder<StructBuilder>,
    itm: Float32Builder,
    width: Int32Builder,
    height: Int32Builder,
    sha256: StringBuilder,
    url: StringBuilder,
    meta: StringBuilder,
    org_itm: Option<Float32Builder>,
    text: Option<(ShardBlend, StringBuilder)>,
    image: Option<StructBuilder>,
}

impl CaptionTable {
    /// Creates an empty table for one shard. `schema` is from [`caption_schema`].
    #[must_use]
    pub fn new(schema: Arc<Schema>, shard: String) -> Self {
        let has = |name: &str| schema.column_with_name(name).is_some();
        let (org_itm, embed) = (has("org_itm"), has("image"));
        let blend = schema.metadata().get(metadata_keys::BLEND);
        let blend = blend.and_then(|value| Blend::from_metadata(value));
        let text = blend.map(|blend| (blend.of_shard(&shard), StringBuilder::new()));
        Self {
            schema,
            shard,
            bytes: 0,
            key: StringBuilder::new(),
            shards: StringBuilder::new(),
            caption: StringBuilder::new(),
            similarity: Float32Builder::new(),
            org_caption: StringBuilder::new(),
            org_similarity: Float32Builder::new(),
            candidates: ListBuilder::new(StructBuilder::from_fields(candidate_fields(), 0))
                .with_field(candidate_item()),
            itm: Float32Builder::new(),
            width: Int32Builder::new(),
            height: Int32Builder::new(),
            sha256: StringBuilder::new(),
            url: StringBuilder::new(),
            meta: StringBuilder::new(),
            org_itm: org_itm.then(Float32Builder::new),
            text,
            image: embed.then(|| StructBuilder::from_fields(image_fields(), 0)),
        }
    }

    /// Returns the approximate number of uncompressed bytes so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of rows so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.key.len()
    }

    /// Adds one row.
    pub fn push(&mut self, row: &CaptionRow) {
        let chosen = row.candidates.chosen();
        self.key.append_value(&row.key);
        self.shards.append_value(&self.shard);
        self.caption.append_value(&chosen.text);
        self.similarity.append_value(chosen.similarity.get());
        self.org_caption.append_option(row.org_caption.as_deref());
        self.org_similarity.append_option(row.org_similarity.map(Similarity::get));
        self.push_candidates(row);
        self.itm.append_option(chosen.itm.map(MatchProbability::get));
        // The pixel cap keeps sides far below i32::MAX.
        self.width.append_value(i32::try_from(row.width).unwrap_or(i32::MAX));
        self.height.append_value(i32::try_from(row.height).unwrap_or(i32::MAX));
        self.sha256.append_value(&row.sha256);
        self.url.append_option(row.url.as_deref());
        self.meta.append_option(row.meta.as_deref());
        if let Some(org_itm) = &mut self.org_itm {
            org_itm.append_option(row.org_itm.map(MatchProbability::get));
        }
        if let Some((blend, texts)) = &mut self.text {
            texts.append_value(blend.text(&row.key, &chosen.text, row.org_caption.as_deref()));
        }
        if let Some(image) = &mut self.image {
            push_image(image, row.image.as_ref());
        }
        let texts = [&row.org_caption, &row.url, &row.meta];
        self.bytes += 200
            + row.key.len()
            + self.shard.len()
            + texts.iter().filter_map(|t| t.as_ref()).map(String::len).sum::<usize>()
            + row.candidates.as_slice().iter().map(|c| 2 * c.text.len() + 8).sum::<usize>()
            + row.image.as_ref().map_or(0, |i| i.bytes.len());
    }

    fn push_candidates(&mut self, row: &CaptionRow) {
        let structs = self.candidates.values();
        for candidate in row.candidates.as_slice() {
            if let Some(b) = structs.field_builder::<StringBuilder>(0) {
                b.append_value(&candidate.text);
            }
            if let Some(b) = structs.field_builder::<Float32Builder>(1) {
                b.append_value(candidate.similarity.get());
            }
            if let Some(b) = structs.field_builder::<Float32Builder>(2) {
                b.append_value(candidate.logprob);
            }
            structs.append(true);
        }
        self.candidates.append(true);
    }

    /// Returns the rows as one batch, and empties the table.
    ///
    /// # Errors
    /// When the columns do not match the schema.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.bytes = 0;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.key.finish()),
            Arc::new(self.shards.finish()),
            Arc::new(self.caption.finish()),
            Arc::new(self.similarity.finish()),
            Arc::new(self.org_caption.finish()),
            Arc::new(self.org_similarity.finish()),
            Arc::new(self.candidates.finish()),
            Arc::new(self.itm.finish()),
            Arc::new(self.width.finish()),
            Arc::new(self.height.finish()),
            Arc::new(self.sha256.finish()),
            Arc::new(self.url.finish()),
            Arc::new(self.meta.finish()),
        ];
        if let Some(org_itm) = &mut self.org_itm {
            columns.push(Arc::new(org_itm.finish()));
        }
        if let Some((_, texts)) = &mut self.text {
            columns.push(Arc::new(texts.finish()));
        }
        if let Some(image) = &mut self.image {
            columns.push(Arc::new(image.finish()));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

fn push_image(builder: &mut StructBuilder, image: Option<&EmbeddedImage>) {
    if let Some(b) = builder.field_builder::<BinaryBuilder>(0) {
        b.append_option(image.map(|i| i.bytes.as_slice()));
    }
    if let Some(b) = builder.field_builder::<StringBuilder>(1) {
        b.append_option(image.map(|i| i.path.as_str()));
    }
    builder.append(image.is_some());
}

/// Collects the rejects of one shard into record batches.
#[derive(Debug)]
pub struct RejectTable {
    schema: Arc<Schema>,
    shard: String,
    bytes: usize,
    texts: [StringBuilder; 4],
    caption: StringBuilder,
    similarity: Float32Builder,
    org_caption: StringBuilder,
}

impl RejectTable {
    /// Creates an empty table for one shard. `schema` is from [`reject_schema`].
    #[must_use]
    pub fn new(schema: Arc<Schema>, shard: String) -> Self {
        Self {
            schema,
            shard,
            bytes: 0,
            texts: std::array::from_fn(|_| StringBuilder::new()),
            caption: StringBuilder::new(),
            similarity: Float32Builder::new(),
            org_caption: StringBuilder::new(),
        }
    }

    /// Returns the approximate number of uncompressed bytes so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of rows so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.similarity.len()
    }

    /// Adds one row.
    pub fn push(&mut self, reject: &Reject) {
        let texts = [reject.key.as_str(), &self.shard, reject.reason.as_str(), &reject.detail];
        for (builder, text) in self.texts.iter_mut().zip(texts) {
            builder.append_value(text);
            self.bytes += text.len();
        }
        self.caption.append_option(reject.caption.as_deref());
        self.similarity.append_option(reject.similarity);
        self.org_caption.append_option(reject.org_caption.as_deref());
        self.bytes += 32 + reject.org_caption.as_ref().map_or(0, String::len);
    }

    /// Returns the rows as one batch, and empties the table.
    ///
    /// # Errors
    /// When the columns do not match the schema.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.bytes = 0;
        let mut columns: Vec<ArrayRef> =
            self.texts.iter_mut().map(|b| Arc::new(b.finish()) as ArrayRef).collect();
        columns.push(Arc::new(self.caption.finish()));
        columns.push(Arc::new(self.similarity.finish()));
        columns.push(Arc::new(self.org_caption.finish()));
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}
