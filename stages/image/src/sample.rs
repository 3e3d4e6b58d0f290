//! The stage of a run: `Sample -> PreparedSample`, on rayon's threads and never on tokio's.
//!
//! The size of the pool bounds how many images are decoded at once. Results wait in the captioner's bounded channel, and a full
//! channel blocks the pool. An image that cannot be decoded becomes a reject with its reason.

use bytes::Bytes;
use recaption_messages::{PreparedSample, Sample, SampleResult};
use recaption_schemas::{Preprocess, Reject, RejectReason, sha256_hex};

use crate::{
    error::DecodeError,
    options::DecodeOptions,
    pixels::{ModelInputs, Pixels},
    prepare::prepare_all,
};

/// How images are prepared.
#[derive(Clone, Copy, Debug)]
pub struct PrepareSettings {
    /// Preprocessing of the captioner.
    pub preprocess: Preprocess,
    /// Preprocessing of a separate scorer, if it differs.
    pub scorer: Option<Preprocess>,
    /// Limits, and whether images are turned upright.
    pub decode: DecodeOptions,
    /// Whether the encoded bytes are kept for the output.
    pub keep_stored: bool,
}

/// The inputs of the captioner and the scorer.
#[derive(Clone, Debug)]
pub struct ModelPixels {
    /// Input of the captioner, u8 RGB, `[S, S, 3]`, row-major.
    pub captioner: Vec<u8>,
    /// Input of a separate scorer, likewise, if it differs.
    pub scorer: Option<Vec<u8>>,
    /// Width of the stored image after EXIF orientation, pixels.
    pub width: u32,
    /// Height of the stored image after EXIF orientation, pixels.
    pub height: u32,
}

/// Decodes and resizes a sample, on the calling thread.
///
/// # Errors
/// The reject of a sample whose image cannot be decoded.
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
            let org_caption = sample.org_caption.map(String::from);
            let reject = Reject::new(sample.key, reason_of(&error), error.to_string());
            let reject = reject.with_org_caption(org_caption);
            Err(Box::new(SampleResult::rejected(sample.shard, sample.index, reject)))
        }
    }
}

/// Decodes an image once and resizes it for captioner and scorer.
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

/// Returns the reason of the reject for an image that cannot be decoded.
#[must_use]
pub fn reason_of(error: &DecodeError) -> RejectReason {
    match error {
        DecodeError::Unsupported { .. } => RejectReason::UnsupportedFormat,
        DecodeError::Corrupt { .. } => RejectReason::CorruptImage,
        DecodeError::TooManyPixels { .. } | DecodeError::TooManyBytes { .. } => RejectReason::TooManyPixels,
        DecodeError::TooSmall { .. } => RejectReason::TooSmall,
    }
}
