//! `recaption verify`: an exported model against reference tensors that open_clip computed.
//!
//! Every tensor that the model has an answer to gets a verdict, in every precision and on every provider; [`criteria`] says
//! where the bounds lie. What is left unchecked says why.

mod beam_replay;
mod captions;
pub(crate) mod compare;
pub mod criteria;
pub(crate) mod forced;
mod golden;

use std::path::Path;

pub use self::criteria::{FEATURE_TOLERANCE, LOGIT_TOLERANCE, SCORE_TOLERANCE};
use self::{
    captions::Generator,
    compare::Comparison,
    criteria::{Bound, Criteria},
    forced::ForcedDecoder,
    golden::{Golden, GoldenLogits},
};
use crate::{
    model::ModelFolder,
    runtime::{ImageEncoder, RuntimeError, SessionOptions, TextEncoder},
};

/// Why a comparison cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The golden files are unusable.
    #[error("golden {path}: {what}")]
    Golden {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The model fails.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// What a comparison of one tensor found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Within the tolerance.
    Pass,
    /// Outside it.
    Fail,
    /// The model has no output for it, or the golden does not have it.
    Unchecked,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The golden's tensor.
    pub tensor: &'static str,
    /// Verdict.
    pub outcome: Outcome,
    /// Numbers.
    pub detail: String,
}

/// Whether a report means that the model is right: something was compared, and nothing failed.
#[must_use]
pub fn passed(checks: &[Check]) -> bool {
    checks.iter().any(|check| check.outcome == Outcome::Pass)
        && checks.iter().all(|check| check.outcome != Outcome::Fail)
}

/// Compares every tensor of the golden that the model has an answer to.
///
/// # Errors
/// When the golden or the model cannot be read or run; differences are no errors but [`Outcome::Fail`].
pub fn verify(
    model: &ModelFolder,
    golden: &Path,
    options: &SessionOptions,
) -> Result<Vec<Check>, VerifyError> {
    let golden = Golden::read(golden, model)?;
    let criteria = Criteria::of(model.spec.precision, options.execution);
    let width = model.spec.dimensions.embed_dim;
    let encoded = ImageEncoder::load(model, options)?.encode(&golden.images)?;
    let texts: Vec<&[i64]> = golden.texts.iter().map(Vec::as_slice).collect();
    let text_features = TextEncoder::load(model, options)?.encode(&texts)?;
    let features = |tensor, got: &[f32], want: &[f32]| {
        check_rows(tensor, &Comparison::of_rows(got, want, width), criteria.features)
    };
    let mut checks = vec![
        features("image_features", &encoded.features, &golden.image_features),
        features("text_features", &text_features, &golden.text_features),
    ];
    let Some(logits) = &golden.logits else { return Ok(checks) };
    let length = logits.positions.max(golden.generation.max_tokens);
    let mut forced = ForcedDecoder::load(model, options, length, (golden.count, &encoded))?;
    checks.push(check_rows("logits", &compare_logits(&mut forced, &golden, logits)?, criteria.logits));
    let generator = Generator { model, options, golden: &golden, encoded: &encoded, criteria };
    checks.push(match &golden.greedy {
        Some(want) => generator.greedy(&mut forced, want)?,
        None => unchecked("greedy", "the golden has none"),
    });
    if let Some(want) = &golden.beam {
        checks.extend(generator.beam(&mut forced, want)?);
    }
    if golden.has_image_tokens {
        checks.push(unchecked("image_tokens", "no graph output; covered by the logits"));
    }
    Ok(checks)
}

/// Teacher forcing through the KV cache, up to and including the end token's row.
fn compare_logits(
    forced: &mut ForcedDecoder,
    golden: &Golden,
    want: &GoldenLogits,
) -> Result<Comparison, RuntimeError> {
    let mut comparison = Comparison::new();
    forced.read(&golden.texts, want.positions, |row, position, logits| {
        comparison
            .add(logits, &want.values[(row * want.positions + position) * logits.len()..][..logits.len()]);
    })?;
    Ok(comparison)
}

fn check_rows(tensor: &'static str, comparison: &Comparison, bound: Bound) -> Check {
    Check::new(tensor, bound.holds(comparison), format!("{comparison} ({bound})"))
}

fn unchecked(tensor: &'static str, why: &str) -> Check {
    Check { tensor, outcome: Outcome::Unchecked, detail: why.into() }
}

#[cfg(test)]
mod tests;
