//! Bounds on a BLIP's differences from transformers, by precision.
//!
//! Those of fp32 are several times what transformers' own fp32 differs from float64. Those of fp16 and int8 are 1.5 to 10 times what was
//! measured on `tests/data/blip` and on larger cases of random weights, which round worse than trained ones.

use crate::{
    model::{ModelFolder, Precision},
    runtime::SessionOptions,
    verify::criteria::{Bound, Criteria},
};

/// Bounds of a precision.
pub(super) struct Bounds {
    /// Tokens of images.
    pub(super) image_tokens: Bound,
    /// Tokens of texts.
    pub(super) text_tokens: Bound,
    /// Embeddings.
    pub(super) features: Bound,
    /// Cosines of embeddings.
    pub(super) cosines: Bound,
    /// Matching logits.
    pub(super) matches: Bound,
    /// Probabilities of matches.
    pub(super) probabilities: Bound,
    /// Logits of a text's ids.
    pub(super) logits: Bound,
    /// Largest difference of a text's log-probability, nats.
    pub(super) log_probability: f32,
    /// Largest difference of a beam's score, nats per token.
    pub(super) beam_score: f32,
    /// Largest distance of a selected token's logit below the best one, in standard deviations of the row, where captions differ from
    /// the reference's; `None` where they must be equal.
    pub(super) choice: Option<f32>,
}

impl Bounds {
    /// Returns the bounds of a model.
    pub(super) fn of(model: &ModelFolder, options: &SessionOptions) -> Self {
        let criteria = Criteria::of(model.spec.precision, options.execution);
        match model.spec.precision {
            Precision::Fp32 if criteria.choice.is_none() => Self::FP32,
            // On a GPU fp32 multiplies in TF32.
            Precision::Fp32 | Precision::Fp16 => Self {
                image_tokens: criteria.features,
                text_tokens: criteria.logits,
                features: criteria.features,
                cosines: Bound::Difference(5e-3),
                matches: Bound::Difference(5e-2),
                probabilities: Bound::Difference(2e-2),
                logits: criteria.logits,
                log_probability: 0.1,
                beam_score: criteria.score,
                choice: criteria.choice,
            },
            Precision::Int8 => {
                let features = Bound::Rounded { cosine: 0.99, deviation: 0.5, error: 0.1 };
                Self {
                    image_tokens: criteria.features,
                    text_tokens: features,
                    features,
                    cosines: Bound::Difference(0.1),
                    matches: Bound::Difference(1.0),
                    probabilities: Bound::Difference(0.3),
                    logits: criteria.logits,
                    log_probability: 2.0,
                    beam_score: 0.15,
                    choice: criteria.choice,
                }
            }
        }
    }

    const FP32: Self = Self {
        image_tokens: Bound::Difference(3e-5),
        text_tokens: Bound::Difference(5e-5),
        features: Bound::Difference(1e-5),
        cosines: Bound::Difference(1e-5),
        matches: Bound::Difference(5e-5),
        probabilities: Bound::Difference(1e-5),
        logits: Bound::Difference(1e-4),
        log_probability: 1e-4,
        beam_score: 2e-5,
        choice: None,
    };
}
