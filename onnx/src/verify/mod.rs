//! `recaption verify`: an exported model against reference tensors that open_clip, transformers of a BLIP, or the authors' code of an
//! ALBEF computed.
//!
//! Every tensor that the model computes is compared, in every precision and on every provider, with the bounds of
//! `criteria`. A tensor that is not compared is reported with the reason.

mod albef;
mod beam_replay;
mod blip;
mod caption_checks;
pub(crate) mod compare;
pub(crate) mod criteria;
pub(crate) mod forced;
mod golden;
mod names;
mod report;
mod scorer_checks;
mod tensor_file;

use std::path::Path;

use self::{
    caption_checks::CaptionChecker,
    compare::Comparison,
    criteria::{Bound, Criteria},
    forced::ForcedDecoder,
    golden::{Golden, GoldenLogits},
};
pub use self::{
    criteria::FEATURE_TOLERANCE,
    report::{Check, CheckStatus, VerifyError, passed},
};
use crate::{
    model::{Architecture, ModelFolder},
    runtime::{ImageEncoder, RuntimeError, SessionOptions, TextEncoder},
};

/// Compares every tensor of the golden that the model computes.
///
/// # Errors
/// When the golden cannot be read or the model cannot be run; a difference is not an error but [`CheckStatus::Fail`].
pub fn verify(
    model: &ModelFolder,
    golden: &Path,
    options: &SessionOptions,
) -> Result<Vec<Check>, VerifyError> {
    if matches!(model.spec.architecture, Architecture::Blip | Architecture::BlipRetrieval) {
        return blip::verify(model, golden, options);
    }
    if model.spec.architecture == Architecture::Albef {
        return albef::verify(model, golden, options);
    }
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
    let both = [encoded.features.as_slice(), &text_features];
    checks.extend(scorer_checks::probability(model, &golden, criteria, both));
    checks.extend(scorer_checks::text_ids(model, &golden)?);
    let Some(logits) = &golden.logits else { return Ok(checks) };
    let length = logits.positions.max(golden.generation.max_tokens);
    let mut forced = ForcedDecoder::load(model, options, length, (golden.count, &encoded))?;
    checks.push(check_rows("logits", &compare_logits(&mut forced, &golden, logits)?, criteria.logits));
    let checker = CaptionChecker { model, options, golden: &golden, encoded: &encoded, criteria };
    checks.push(match &golden.greedy {
        Some(want) => checker.greedy(&mut forced, want)?,
        None => Check::unchecked("greedy", "not in the golden"),
    });
    if let Some(want) = &golden.beam {
        checks.extend(checker.beam(&mut forced, want)?);
    }
    if golden.has_image_tokens {
        checks.push(Check::unchecked("image_tokens", "not an output of a graph; covered by the logits"));
    }
    Ok(checks)
}

/// Compares logits of teacher forcing through the KV cache, up to and including the end token's row.
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

#[cfg(test)]
mod tests;
