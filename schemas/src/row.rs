//! One row of `captions/`.

use crate::candidates::{Candidates, MatchProbability, Similarity};

/// A stored image in the form of Hugging Face's image feature: bytes and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedImage {
    /// Encoded bytes, as stored in the input.
    pub bytes: Vec<u8>,
    /// File name, for readers that use its suffix. It is data, and never opened as a path.
    pub path: String,
}

/// A captioned sample: the columns of the output schema, version 2.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionRow {
    /// Key, distinct within its shard.
    pub key: String,
    /// All candidates, the best first. The chosen one is `caption`.
    pub candidates: Candidates,
    /// Original caption of the input; never blank.
    pub org_caption: Option<String>,
    /// Cosine of image and original caption, [-1, 1].
    pub org_similarity: Option<Similarity>,
    /// Probability that image and original caption match, [0, 1], if they were matched.
    pub org_itm: Option<MatchProbability>,
    /// Width of the stored image, pixels, after EXIF orientation.
    pub width: u32,
    /// Height of the stored image, pixels, after EXIF orientation.
    pub height: u32,
    /// SHA-256 of the stored image bytes, hex.
    pub sha256: String,
    /// URL of the image, if the input has it.
    pub url: Option<String>,
    /// The sample's own JSON, verbatim if it is valid.
    pub meta: Option<String>,
    /// The stored image, if the output embeds images.
    pub image: Option<EmbeddedImage>,
}
