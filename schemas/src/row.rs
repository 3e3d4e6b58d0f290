//! One row of `captions/`.

use crate::candidates::{Candidates, Similarity};

/// The stored image, as Hugging Face's image feature wants it: bytes and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedImage {
    /// Encoded bytes, as they were stored.
    pub bytes: Vec<u8>,
    /// File name, for readers that go by suffix. Data, never opened as a path.
    pub path: String,
}

/// One captioned sample. Column by column this is the output schema, version 2.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionRow {
    /// The sample's label, distinct within its shard.
    pub key: String,
    /// All candidates, best first; the chosen one is `caption`.
    pub candidates: Candidates,
    /// What the input said; never blank.
    pub org_caption: Option<String>,
    /// Cosine of image and original caption.
    pub org_similarity: Option<Similarity>,
    /// Width of the stored image, pixels, after EXIF orientation.
    pub width: u32,
    /// Height of the stored image, pixels, after EXIF orientation.
    pub height: u32,
    /// SHA-256 of the stored image bytes, hex.
    pub sha256: String,
    /// Where the image came from, when the input knows.
    pub url: Option<String>,
    /// The sample's own JSON; untouched where it is valid.
    pub meta: Option<String>,
    /// Only with `output.images = "embed"`.
    pub image: Option<EmbeddedImage>,
}
