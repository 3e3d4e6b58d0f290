//! Compares the captions of a device with the CPU's, and explains every difference.
//!
//! Two providers round differently, so where two logits are close they may select different tokens, after which the texts differ.
//! No other difference is allowed. Both sides read the tokens that their captions share (teacher forcing), and the CPU's logits of
//! the first two tokens that differ must be within a tolerance of each other:
//!
//! - If no logit differs by more than `n` between both sides, two tokens change ranks only if they are closer than `2 n`. So the
//!   tolerance is twice the largest difference that was measured at equal prefixes.
//! - A wrong device would widen its own tolerance that way. So the tolerance is at most that of `recaption verify`
//!   (`verify::criteria`), and logits and image features must be within its bounds too.
//!
//! Differences are in standard deviations of the row of logits. In fp32 on the CPU nothing may differ.

mod captions;
mod forced;
mod report;
mod side;

use self::{captions::Captions, side::ForcedText};
pub use self::{
    report::{CaptionComparison, Difference, MIN_EQUAL_SHARE},
    side::Side,
};
use crate::{
    caption::{CaptionSettings, Strategy},
    model::ModelFolder,
    runtime::RuntimeError,
    verify::{
        compare::Comparison,
        criteria::{Bound, Criteria},
    },
};

/// Number of equal captions whose logits are compared as well.
const EQUAL_EXAMINED: usize = 64;
/// Largest number of differences that are examined; a device with more does not pass.
const MAX_EXAMINED: usize = 1024;

/// Captions `pixels`, u8 RGB `[N, S, S, 3]`, on both sides and compares them.
///
/// # Errors
/// When the settings are not greedy, `pixels` is not a whole number of images or none, or a graph fails.
pub fn compare_captions(
    reference: Side<'_>,
    device: Side<'_>,
    settings: &CaptionSettings,
    pixels: &[u8],
) -> Result<CaptionComparison, RuntimeError> {
    if settings.strategy != Strategy::Greedy {
        return Err(RuntimeError::Input("only greedy captions can be compared".into()));
    }
    let (want, got) = std::thread::scope(|scope| {
        let got = scope.spawn(|| Captions::generate(device, settings, pixels));
        (Captions::generate(reference, settings, pixels), got.join())
    });
    let (want, got) =
        (want?, got.map_err(|_| RuntimeError::Input("captioning on the device panicked".into()))??);
    let mut differences: Vec<Difference> = (0..want.ids.len())
        .filter_map(|image| difference(image, &want.ids[image], &got.ids[image]))
        .collect();
    let texts = texts_to_read(reference.model, settings, &want, &differences);
    let (logits, gaps) = forced::read([reference, device], settings, pixels, &texts)?;
    let criteria = Criteria::of(device.model.spec.precision, device.options.execution);
    let tolerance = criteria.choice.map_or(0.0, |max| max.min(2.0 * logits.deviation));
    for found in &mut differences {
        found.gap = gaps.get(&found.image).copied();
        found.is_explained = found.gap.is_some_and(|gap| gap <= tolerance);
    }
    let features = Comparison::of_rows(&got.features, &want.features, want.features.len() / want.ids.len());
    Ok(CaptionComparison {
        images: want.ids.len(),
        equal: want.ids.len() - differences.len(),
        differences,
        tolerance,
        logit_deviation: logits.deviation,
        logit_cosine: logits.cosine,
        logit_rows: logits.rows,
        feature_cosine: features.cosine,
        broken_bounds: broken("logits", criteria.logits, &logits)
            .into_iter()
            .chain(broken("image features", criteria.features, &features))
            .collect(),
        seconds: [want.seconds, got.seconds],
    })
}

/// Returns a message if a bound does not hold.
fn broken(what: &str, bound: Bound, comparison: &Comparison) -> Option<String> {
    (!bound.holds(comparison)).then(|| format!("{what}: {comparison}; allowed: {bound}"))
}

/// Returns where two captions of an image diverge, if they do.
fn difference(image: usize, want: &[i64], got: &[i64]) -> Option<Difference> {
    let position = want.iter().zip(got).take_while(|(a, b)| a == b).count();
    let [reference_id, device_id] = [want, got].map(|ids| ids.get(position).copied());
    (reference_id.is_some() || device_id.is_some()).then_some(Difference {
        image,
        position,
        reference_id,
        device_id,
        gap: None,
        is_explained: false,
    })
}

/// Returns the texts of all differences, and of some equal captions.
fn texts_to_read(
    model: &ModelFolder,
    settings: &CaptionSettings,
    want: &Captions,
    differences: &[Difference],
) -> Vec<ForcedText> {
    let text = |image: usize, length: usize, diverging| {
        let prefix = std::iter::once(model.spec.special_ids.start).chain(settings.prompt.iter().copied());
        ForcedText {
            image,
            ids: prefix.chain(want.ids[image].iter().take(length).copied()).collect(),
            diverging,
        }
    };
    let diverging = differences.iter().take(MAX_EXAMINED).filter_map(|found| {
        let ids = [found.reference_id?, found.device_id?];
        Some(text(found.image, found.position, Some(ids)))
    });
    let equal = (0..want.ids.len())
        .filter(|image| differences.binary_search_by_key(image, |found| found.image).is_err())
        .take(EQUAL_EXAMINED)
        // The last token is selected but not read.
        .map(|image| text(image, want.ids[image].len().saturating_sub(1), None));
    diverging.chain(equal).collect()
}

#[cfg(test)]
mod tests;
