//! Record batch -> rows of `captions/`: the columns by name, checked once. Columns that came later may be absent.

use arrow_array::{
    Array, BinaryArray, Float32Array, Int32Array, ListArray, RecordBatch, StringArray, cast::AsArray,
};
use arrow_schema::ArrowError;
use bytes::Bytes;

/// The rows of a batch. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CaptionRows {
    rows: usize,
    key: StringArray,
    shard: StringArray,
    caption: StringArray,
    similarity: Float32Array,
    org_caption: StringArray,
    org_similarity: Float32Array,
    candidates: ListArray,
    itm: Option<Float32Array>,
    org_itm: Option<Float32Array>,
    width: Int32Array,
    height: Int32Array,
    sha256: StringArray,
    url: StringArray,
    meta: StringArray,
    text: Option<StringArray>,
    image: Option<(BinaryArray, StringArray)>,
}

fn column<T: Array + Clone + 'static>(batch: &RecordBatch, name: &str) -> Result<T, ArrowError> {
    let column = batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<T>());
    column
        .cloned()
        .ok_or_else(|| ArrowError::SchemaError(format!("column `{name}` is missing or has another type")))
}

/// Returns a column that is absent in outputs without it.
fn added<T: Array + Clone + 'static>(batch: &RecordBatch, name: &str) -> Result<Option<T>, ArrowError> {
    batch.column_by_name(name).map(|_| column(batch, name)).transpose()
}

fn optional(array: &StringArray, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.value(row))
}

impl CaptionRows {
    /// Takes the columns of a batch.
    ///
    /// # Errors
    /// Returns an error when a column is missing or has another type.
    pub fn of(batch: &RecordBatch) -> Result<Self, ArrowError> {
        let image = match batch.column_by_name("image") {
            None => None,
            Some(image) => {
                let image = image
                    .as_struct_opt()
                    .ok_or_else(|| ArrowError::SchemaError("column `image` has another type".to_owned()))?;
                let field = |name: &str| {
                    let what = || ArrowError::SchemaError(format!("column `image` lacks `{name}`"));
                    image.column_by_name(name).ok_or_else(what)
                };
                let what = || ArrowError::SchemaError("column `image` has fields of another type".to_owned());
                let bytes = field("bytes")?.as_binary_opt::<i32>().ok_or_else(what)?;
                let path = field("path")?.as_string_opt::<i32>().ok_or_else(what)?;
                Some((bytes.clone(), path.clone()))
            }
        };
        Ok(Self {
            rows: batch.num_rows(),
            key: column(batch, "key")?,
            shard: column(batch, "shard")?,
            caption: column(batch, "caption")?,
            similarity: column(batch, "similarity")?,
            org_caption: column(batch, "org_caption")?,
            org_similarity: column(batch, "org_similarity")?,
            candidates: column(batch, "candidates")?,
            itm: added(batch, "itm")?,
            org_itm: added(batch, "org_itm")?,
            width: column(batch, "width")?,
            height: column(batch, "height")?,
            sha256: column(batch, "sha256")?,
            url: column(batch, "url")?,
            meta: column(batch, "meta")?,
            text: added(batch, "text")?,
            image,
        })
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the key of a row.
    #[must_use]
    pub fn key(&self, row: usize) -> &str {
        self.key.value(row)
    }

    /// Returns the shard's URL.
    #[must_use]
    pub fn shard(&self, row: usize) -> &str {
        self.shard.value(row)
    }

    /// Returns the chosen caption.
    #[must_use]
    pub fn caption(&self, row: usize) -> &str {
        self.caption.value(row)
    }

    /// Returns the cosine of image and chosen caption, [-1, 1].
    #[must_use]
    pub fn similarity(&self, row: usize) -> f32 {
        self.similarity.value(row)
    }

    /// Returns the original caption.
    #[must_use]
    pub fn org_caption(&self, row: usize) -> Option<&str> {
        optional(&self.org_caption, row)
    }

    /// Returns the cosine of image and original caption, [-1, 1].
    #[must_use]
    pub fn org_similarity(&self, row: usize) -> Option<f32> {
        self.org_similarity.is_valid(row).then(|| self.org_similarity.value(row))
    }

    /// Returns the probability that image and chosen caption match, [0, 1], if they were matched.
    #[must_use]
    pub fn itm(&self, row: usize) -> Option<f32> {
        self.itm.as_ref().filter(|itm| itm.is_valid(row)).map(|itm| itm.value(row))
    }

    /// Returns the probability that image and original caption match, [0, 1], if they were matched.
    #[must_use]
    pub fn org_itm(&self, row: usize) -> Option<f32> {
        self.org_itm.as_ref().filter(|itm| itm.is_valid(row)).map(|itm| itm.value(row))
    }

    /// Returns the texts of all candidates, the best first.
    #[must_use]
    pub fn candidates(&self, row: usize) -> Vec<String> {
        let candidates = self.candidates.value(row);
        let texts = candidates.as_struct_opt().and_then(|all| all.column_by_name("text"));
        let texts = texts.and_then(|texts| texts.as_string_opt::<i32>());
        texts.into_iter().flat_map(|texts| texts.iter().flatten().map(str::to_owned)).collect()
    }

    /// Returns the width of the stored image, pixels.
    #[must_use]
    pub fn width(&self, row: usize) -> i32 {
        self.width.value(row)
    }

    /// Returns the height of the stored image, pixels.
    #[must_use]
    pub fn height(&self, row: usize) -> i32 {
        self.height.value(row)
    }

    /// Returns the SHA-256 of the stored image, hex.
    #[must_use]
    pub fn sha256(&self, row: usize) -> &str {
        self.sha256.value(row)
    }

    /// Returns the URL of the image.
    #[must_use]
    pub fn url(&self, row: usize) -> Option<&str> {
        optional(&self.url, row)
    }

    /// Returns the sample's JSON.
    #[must_use]
    pub fn meta(&self, row: usize) -> Option<&str> {
        optional(&self.meta, row)
    }

    /// Returns the blended text, if the output has one.
    #[must_use]
    pub fn text(&self, row: usize) -> Option<&str> {
        self.text.as_ref().and_then(|text| optional(text, row))
    }

    /// Returns whether rows may carry their image.
    #[must_use]
    pub fn has_images(&self) -> bool {
        self.image.is_some()
    }

    /// Returns the stored image, if the row carries it.
    #[must_use]
    pub fn image(&self, row: usize) -> Option<Bytes> {
        let (bytes, _) = self.image.as_ref()?;
        bytes.is_valid(row).then(|| Bytes::copy_from_slice(bytes.value(row)))
    }
}
