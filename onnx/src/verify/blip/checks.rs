//! Verdicts that captioners and models that score have in common.

use crate::{
    model::ModelFolder,
    verify::{
        compare::{Comparison, max_or_nan},
        criteria::Bound,
        report::Check,
    },
};

/// Largest absolute difference of normalised pixels, which are computed in double precision and not by a graph.
pub(super) const PIXELS: Bound = Bound::Difference(2e-6);

/// Checks normalised pixels `[N, 3, S, S]` of images u8 `[N, S, S, 3]`.
pub(super) fn normalised(model: &ModelFolder, tensor: &'static str, images: &[u8], want: &[f32]) -> Check {
    let Some(normalisation) = model.spec.normalisation else {
        return Check::new(tensor, false, "model.json has no normalisation: export the model again".into());
    };
    let area = (model.spec.image_size as usize).pow(2);
    let mut got = Vec::with_capacity(want.len());
    for image in images.chunks_exact(3 * area) {
        for channel in 0..3 {
            let (mean, std) = (normalisation.mean[channel], normalisation.std[channel]);
            let values = image.iter().skip(channel).step_by(3);
            got.extend(values.map(|v| ((f64::from(*v) / 255.0 - mean) / std) as f32));
        }
    }
    check_rows(tensor, &Comparison::of_rows(&got, want, area), PIXELS)
}

/// Checks rows of numbers against a bound.
pub(super) fn check_rows(tensor: &'static str, comparison: &Comparison, bound: Bound) -> Check {
    Check::new(tensor, bound.holds(comparison), format!("{comparison} ({bound})"))
}

/// Checks one number per caption or text.
pub(super) fn check_numbers(tensor: &'static str, got: &[f32], want: &[f32], max: f32) -> Check {
    let difference = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, max_or_nan);
    let detail = format!("{} values, max abs difference {difference:.2e} (allowed {max:.0e})", want.len());
    Check::new(tensor, got.len() == want.len() && difference <= max, detail)
}
