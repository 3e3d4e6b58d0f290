//! `Sample -> Image`: decode and resize, on rayon's threads and never on tokio's.
//!
//! The pool's size bounds how many images are decoded at once; results wait in the caption stage's bounded channel, and
//! a full channel makes the pool wait. An image that cannot be decoded becomes a reject with its reason.

use bytes::Bytes;
use recaption_messages::{PreparedSample, Sample, SampleResult};
use recaption_schemas::{Preprocess, Reject, RejectReason, sha256_hex};

use crate::{DecodeError, DecodeOptions, ModelInputs, Pixels, prepare_all};

/// How images are prepared.
#[derive(Clone, Copy, Debug)]
pub struct PrepareSettings {
    /// What the captioner wants.
    pub preprocess: Preprocess,
    /// What a scorer of its own wants, if that is something else.
    pub scorer: Option<Preprocess>,
    /// What is refused, and whether images are turned upright.
    pub decode: DecodeOptions,
    /// Whether the stored bytes travel on.
    pub keep_stored: bool,
}

/// An image as the models see it.
pub struct ModelPixels {
    /// The captioner's, `[S, S, 3]`.
    pub captioner: Vec<u8>,
    /// A scorer's, where it sees something else.
    pub scorer: Option<Vec<u8>>,
    /// Width of the stored image after EXIF orientation, pixels.
    pub width: u32,
    /// Height of the stored image after EXIF orientation, pixels.
    pub height: u32,
}

/// Decodes one sample; runs on the calling thread.
///
/// # Errors
/// The reject that the sample ends as.
pub fn prepare_sample(
    sample: Sample,
    settings: &PrepareSettings,
) -> Result<PreparedSample, Box<SampleResult>> {
    match decode_for_models(&sample.image, &sample.suffix, settings) {
        Ok(prepared) => Ok(PreparedSample {
            shard: sample.shard,
            index: sample.index,
            key: sample.key,
            suffix: sample.suffix,
            sha256: sha256_hex(&sample.image),
            stored: if settings.keep_stored { sample.image } else { Bytes::new() },
            width: prepared.width,
            height: prepared.height,
            pixels: prepared.captioner.into(),
            scorer_pixels: prepared.scorer.map(Bytes::from),
            org_caption: sample.org_caption.map(String::from),
            url: sample.url,
            meta: sample.meta,
            permit: sample.permit.filter(|_| settings.keep_stored),
        }),
        Err(error) => {
            let reject = Reject::new(sample.key, reason_of(&error), error.to_string())
                .with_org_caption(sample.org_caption);
            Err(Box::new(SampleResult::rejected(sample.shard, sample.index, reject)))
        }
    }
}

/// Decodes an image once and brings it to what every model wants.
///
/// # Errors
/// When the image cannot be decoded.
pub fn decode_for_models(
    image: &[u8],
    suffix: &str,
    settings: &PrepareSettings,
) -> Result<ModelPixels, DecodeError> {
    let wanted: Vec<Preprocess> = std::iter::once(settings.preprocess).chain(settings.scorer).collect();
    let ModelInputs { pixels, width, height } = prepare_all(image, Some(suffix), &wanted, &settings.decode)?;
    let mut pixels = pixels.into_iter().map(Pixels::into_vec);
    Ok(ModelPixels { captioner: pixels.next().unwrap_or_default(), scorer: pixels.next(), width, height })
}

/// The reason by which an image that cannot be decoded is counted.
#[must_use]
pub fn reason_of(error: &DecodeError) -> RejectReason {
    match error {
        DecodeError::Unsupported { .. } => RejectReason::UnsupportedFormat,
        DecodeError::Corrupt { .. } => RejectReason::CorruptImage,
        DecodeError::TooManyPixels { .. } | DecodeError::TooManyBytes { .. } => RejectReason::TooManyPixels,
        DecodeError::TooSmall { .. } => RejectReason::TooSmall,
    }
}
