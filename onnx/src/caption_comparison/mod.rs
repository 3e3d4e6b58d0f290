//! Compares the captions of a device with the CPU's, and explains every difference.
//!
//! Two providers round differently, so where two logits lie close together they choose different tokens, and all that follows
//! differs. That is the only difference allowed. Both sides read the tokens that their captions have in common (teacher
//! forcing), and the CPU's logits of the first two tokens that differ must lie within a tolerance:
//!
//! - If no logit differs by more than `n` between both sides, two tokens change places only where they lie closer than `2 n`. So
//!   the tolerance is twice the largest difference that was measured at equal prefixes.
//! - A wrong device would widen its own tolerance that way. So the tolerance is at most the one of `recaption verify`
//!   ([`verify::criteria`](crate::verify::criteria)), and logits and image features must be within its bounds too.
//!
//! All in standard deviations of the row of logits. In single precision on the CPU nothing may differ.

mod captions;
mod forced;

use self::captions::Captions;
use crate::{
    caption::{CaptionSettings, Strategy},
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions},
    verify::{
        compare::Comparison,
        criteria::{Bound, Criteria},
    },
};

/// Smallest share of captions that must be equal.
pub const MIN_EQUAL_SHARE: f64 = 0.98;
/// Captions without a difference whose logits are compared as well.
const EQUAL_EXAMINED: usize = 64;
/// Captions with a difference that are explained, at most; a device with more is wrong anyway.
const MAX_EXAMINED: usize = 1024;

/// A model and what computes it.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The model.
    pub model: &'a ModelFolder,
    /// What computes it.
    pub options: &'a SessionOptions,
}

/// Two captions of one image that differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Number of the image.
    pub image: usize,
    /// Number of the first token that differs, 0 for the one behind the start token and the prompt.
    pub position: usize,
    /// The reference's token there; none if its caption has ended.
    pub reference_id: Option<i64>,
    /// The device's token there; none if its caption has ended.
    pub device_id: Option<i64>,
    /// How far the reference's logit of the device's token lies below that of its own, standard deviations of the row.
    /// None where it was not examined.
    pub gap: Option<f32>,
    /// Whether the gap is within the tolerance.
    pub is_explained: bool,
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct CaptionComparison {
    /// Images captioned on both sides.
    pub images: usize,
    /// Images whose captions have the same ids.
    pub equal: usize,
    /// The others, in the order of images.
    pub differences: Vec<Difference>,
    /// Largest gap that explains a difference, standard deviations of a row of logits.
    pub tolerance: f32,
    /// Largest difference of a logit at equal prefixes, standard deviations of the row.
    pub logit_deviation: f32,
    /// Smallest cosine of two rows of logits at equal prefixes.
    pub logit_cosine: f32,
    /// Rows of logits compared.
    pub logit_rows: usize,
    /// Smallest cosine of an image's features.
    pub feature_cosine: f32,
    /// Bounds of the precision that do not hold, in words.
    pub broken_bounds: Vec<String>,
    /// Seconds that captioning took: the reference's, the device's; without loading.
    pub seconds: [f64; 2],
}

impl CaptionComparison {
    /// Share of equal captions, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.equal as f64 / self.images.max(1) as f64
    }

    /// Differences within the tolerance.
    #[must_use]
    pub fn explained(&self) -> usize {
        self.differences.iter().filter(|difference| difference.is_explained).count()
    }

    /// Differences that are not within the tolerance or were not examined.
    #[must_use]
    pub fn unexplained(&self) -> usize {
        self.differences.len() - self.explained()
    }

    /// Largest gap of all differences that were examined; standard deviations of the row.
    #[must_use]
    pub fn max_gap(&self) -> f32 {
        self.differences.iter().filter_map(|difference| difference.gap).fold(0.0, f32::max)
    }

    /// Whether the device computes what the reference computes: at least [`MIN_EQUAL_SHARE`] of the captions are equal, every
    /// difference is explained, and all bounds hold.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.images > 0
            && self.share() >= MIN_EQUAL_SHARE
            && self.unexplained() == 0
            && self.broken_bounds.is_empty()
    }
}

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
        return Err(RuntimeError::Input(
            "only greedy captions can be compared: others depend on sums or random numbers".into(),
        ));
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
    let tolerance = criteria.choice.map_or(0.0, |most| most.min(2.0 * logits.deviation));
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

fn broken(what: &str, bound: Bound, comparison: &Comparison) -> Option<String> {
    (!bound.holds(comparison)).then(|| format!("{what}: {comparison}; allowed: {bound}"))
}

/// Where two captions of an image part, if they do.
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

/// What both sides read about an image.
struct ForcedText {
    image: usize,
    /// Start token, prompt, and the tokens that both captions have in common.
    ids: Vec<i64>,
    /// The tokens that differ behind them: the reference's, the device's.
    parted: Option<[i64; 2]>,
}

/// The texts of all differences, and those of some images without one.
fn texts_to_read(
    model: &ModelFolder,
    settings: &CaptionSettings,
    want: &Captions,
    differences: &[Difference],
) -> Vec<ForcedText> {
    let text = |image: usize, length: usize, parted| {
        let prefix = std::iter::once(model.spec.special_ids.start).chain(settings.prompt.iter().copied());
        ForcedText {
            image,
            ids: prefix.chain(want.ids[image].iter().take(length).copied()).collect(),
            parted,
        }
    };
    let parted = differences.iter().take(MAX_EXAMINED).filter_map(|found| {
        let ids = [found.reference_id?, found.device_id?];
        Some(text(found.image, found.position, Some(ids)))
    });
    let equal = (0..want.ids.len())
        .filter(|image| differences.binary_search_by_key(image, |found| found.image).is_err())
        .take(EQUAL_EXAMINED)
        // The last token is chosen and not read.
        .map(|image| text(image, want.ids[image].len().saturating_sub(1), None));
    parted.chain(equal).collect()
}

#[cfg(test)]
mod tests;
