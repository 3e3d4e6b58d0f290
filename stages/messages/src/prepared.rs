//! What the decoder yields.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

/// An image at the models' sizes, with everything that its row needs.
#[derive(Debug)]
pub struct PreparedSample {
    /// Number of the shard within the run.
    pub shard: usize,
    /// Position in the shard, from 0.
    pub index: u64,
    /// Key, unique within the shard.
    pub key: String,
    /// File name suffix of the image, lower case, without the dot.
    pub suffix: String,
    /// The captioner's input: u8 RGB, `[S, S, 3]`, row-major.
    pub pixels: Bytes,
    /// The scorer's input, likewise; `None` where it takes the captioner's input or features.
    pub scorer_pixels: Option<Bytes>,
    /// The stored image, as encoded in the input; empty where rows do not carry it.
    pub stored: Bytes,
    /// Width of the stored image after EXIF orientation, pixels.
    pub width: u32,
    /// Height of the stored image after EXIF orientation, pixels.
    pub height: u32,
    /// SHA-256 of the stored bytes, hex.
    pub sha256: String,
    /// Original caption of the input.
    pub org_caption: Option<String>,
    /// URL that the image was fetched from.
    pub url: Option<String>,
    /// Metadata of the sample, a JSON object.
    pub meta: Option<String>,
    /// Share of the byte budget, kept as long as `stored` is.
    pub permit: Option<OwnedSemaphorePermit>,
}
