//! `Sample -> Image`: decode and resize, on rayon's threads and never on tokio's.
//!
//! The pool's size bounds how many images are decoded at once; results wait in the caption stage's bounded channel, and
//! a full channel makes the pool wait. An image that cannot be decoded becomes a reject with its reason.

use bytes::Bytes;
use recaption_schemas::{Preprocess, Reject, RejectReason, sha256_hex};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    caption::Finished,
    decode::{DecodeError, DecodeOptions, prepare},
    filter::Outcome,
    read::Sample,
};

/// An image at the model's size, and everything its row will need.
pub struct PreparedSample {
    /// Number of the shard within the run.
    pub shard: usize,
    /// Position in the shard.
    pub index: u64,
    /// Webdataset key.
    pub key: String,
    /// The image member's suffix.
    pub suffix: String,
    /// u8 RGB, `[S, S, 3]`, row-major.
    pub pixels: Vec<u8>,
    /// Stored bytes, kept only for `output.images = "embed"`.
    pub stored: Bytes,
    /// Width of the stored image after EXIF orientation, pixels.
    pub width: u32,
    /// Height of the stored image after EXIF orientation, pixels.
    pub height: u32,
    /// SHA-256 of the stored bytes, hex.
    pub sha256: String,
    /// What the input said.
    pub org_caption: Option<String>,
    /// Where the image came from.
    pub url: Option<String>,
    /// The sample's own JSON.
    pub meta: Option<String>,
    /// Share of the byte budget, kept as long as `stored` is.
    pub held: Option<OwnedSemaphorePermit>,
}

/// How images are prepared.
#[derive(Clone, Copy, Debug)]
pub struct PrepareSettings {
    /// What the model wants.
    pub preprocess: Preprocess,
    /// What is refused, and whether images are turned upright.
    pub decode: DecodeOptions,
    /// Whether the stored bytes travel on.
    pub keep_stored: bool,
}

/// Decodes one sample; runs on the calling thread.
///
/// # Errors
/// The reject that the sample ends as.
pub fn prepare_sample(sample: Sample, settings: &PrepareSettings) -> Result<PreparedSample, Box<Finished>> {
    match prepare(&sample.image, Some(&sample.suffix), &settings.preprocess, &settings.decode) {
        Ok(prepared) => Ok(PreparedSample {
            shard: sample.shard,
            index: sample.index,
            key: sample.key,
            suffix: sample.suffix,
            sha256: sha256_hex(&sample.image),
            stored: if settings.keep_stored { sample.image } else { Bytes::new() },
            width: prepared.width,
            height: prepared.height,
            pixels: prepared.pixels.into_vec(),
            org_caption: sample.org_caption,
            url: sample.url,
            meta: sample.meta,
            held: sample.held.filter(|_| settings.keep_stored),
        }),
        Err(error) => {
            let reject = Reject {
                key: sample.key,
                reason: reason_of(&error),
                detail: error.to_string(),
                caption: None,
                similarity: None,
                org_caption: sample.org_caption,
            };
            Err(Box::new(Finished {
                shard: sample.shard,
                index: sample.index,
                outcome: Outcome::Reject(Box::new(reject)),
                texts_cut: 0,
            }))
        }
    }
}

fn reason_of(error: &DecodeError) -> RejectReason {
    match error {
        DecodeError::Unsupported { .. } => RejectReason::UnsupportedFormat,
        DecodeError::Corrupt { .. } => RejectReason::CorruptImage,
        DecodeError::TooManyPixels { .. } => RejectReason::TooManyPixels,
        DecodeError::TooSmall { .. } => RejectReason::TooSmall,
    }
}
