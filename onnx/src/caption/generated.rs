//! What enters and leaves a generator: an image to be captioned, and its candidates as token ids.

use std::time::Duration;

/// An image whose captions are to be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The caller's number for the image; [`Generated::ticket`] returns it.
    pub ticket: u64,
    /// Seeds the image's sampled candidates, see [`super::image_seed`].
    pub seed: u64,
}

/// One caption of an image, as token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedTokens {
    /// Generated ids without start token and prompt; the end token is included unless the maximal length was reached: by a beam,
    /// or by any row under [`GenerationRules::Transformers`](crate::model::GenerationRules::Transformers).
    pub ids: Vec<i64>,
    /// Sum of the model's own log-probabilities of `ids`; natural logarithm, at most 0.
    pub logprob: f32,
}

/// The captions of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// [`Admission::ticket`] of the image.
    pub ticket: u64,
    /// At least one: sampled ones in the order of candidate numbers, beams by descending score.
    pub candidates: Vec<GeneratedTokens>,
    /// The image's contrastive embedding, L2-normalised, `[E]`.
    pub image_features: Vec<f32>,
}

/// Where a generator's time went since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Time in the decoder's graph.
    pub decode: Duration,
    /// Time spent selecting tokens from logits.
    pub select: Duration,
    /// Time spent loading images into slots, resizing, and copying beams' caches.
    pub copy: Duration,
    /// Rows whose logits were copied from the device because too many of the largest were equal.
    pub rows_fetched: u64,
}
