//! What is checked of a scorer beside its features: SigLIP's probabilities, and the ids of texts.

use super::{
    compare::Comparison,
    criteria::{Bound, Criteria},
    golden::{Golden, PROBABILITY, TEXT_IDS},
    report::{Check, VerifyError},
};
use crate::{model::ModelFolder, runtime::RuntimeError, tokenizer::Tokenizer};

/// Largest absolute difference of a similarity that a probability is computed of, fp32.
const SIMILARITY_TOLERANCE: f32 = 1e-5;
/// The same where precision rounds.
const ROUNDED_SIMILARITY_TOLERANCE: f32 = 0.03;
/// Steepest slope of the logistic function: the probability changes by no more than this for a change of its logit.
const STEEPEST: f32 = 0.25;
/// Longest text in a report, in characters.
const MAX_SHOWN_CHARS: usize = 60;

/// Checks the probabilities that texts belong to images, by the model's scale and bias; `None` if the golden has none.
pub(super) fn probability(
    model: &ModelFolder,
    golden: &Golden,
    criteria: Criteria,
    [images, texts]: [&[f32]; 2],
) -> Option<Check> {
    let want = golden.probability.as_ref()?;
    let Some(sigmoid) = model.spec.sigmoid else {
        return Some(Check::unchecked(PROBABILITY, "the model has no scale and bias"));
    };
    let width = model.spec.dimensions.embed_dim;
    let mut got = Vec::with_capacity(want.len());
    for image in images.chunks_exact(width) {
        got.extend(texts.chunks_exact(width).map(|text| {
            let cosine: f64 = image.iter().zip(text).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            sigmoid.probability(cosine as f32)
        }));
    }
    let similarity = match criteria.features {
        Bound::Difference(_) => SIMILARITY_TOLERANCE,
        Bound::Rounded { .. } => ROUNDED_SIMILARITY_TOLERANCE,
    };
    let bound = Bound::Difference(STEEPEST * sigmoid.scale * similarity);
    let comparison = Comparison::of_rows(&got, want, golden.texts.len());
    Some(Check::new(PROBABILITY, bound.holds(&comparison), format!("{comparison} ({bound})")))
}

/// Checks the ids of texts; `None` if the golden has none.
///
/// # Errors
/// When the tokenizer cannot be loaded or fails.
pub(super) fn text_ids(model: &ModelFolder, golden: &Golden) -> Result<Option<Check>, VerifyError> {
    let Some(texts) = &golden.tokenised else { return Ok(None) };
    if !model.has_tokenizer() {
        return Ok(Some(Check::unchecked(TEXT_IDS, "the model has no tokenizer")));
    }
    let unusable = |error: crate::tokenizer::TokenizerError| RuntimeError::Input(error.to_string());
    let tokenizer = Tokenizer::load(model).map_err(unusable)?;
    let mut differing = Vec::new();
    for (text, want) in texts {
        if tokenizer.encode(text).map_err(unusable)?.ids != *want {
            differing.push(text);
        }
    }
    let first = differing.first().map_or(String::new(), |text| {
        let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
        format!(", first `{}`", shown.escape_debug())
    });
    let detail = format!("{} of {} texts have other ids{first}", differing.len(), texts.len());
    Ok(Some(Check::new(TEXT_IDS, differing.is_empty() && !texts.is_empty(), detail)))
}
