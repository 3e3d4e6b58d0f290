//! Finds the step at which a beam search drops the reference's caption, and the margin by which it does.
//!
//! Rounding changes scores a little. Where two beams have nearly equal scores, another one may be kept, and the final caption may
//! differ from its first token on; its score then says nothing about the reference's. So the search is repeated by its definition
//! (transformers' candidates: the best `2 * beams` of all continuations, of which the best `beams` that do not end are kept), on
//! the logits of the model that is verified, until the reference's caption is no longer among the beams.

use super::forced::{GenerationLimits, log_sum_of_exponentials};
use crate::{
    model::ModelFolder,
    runtime::{Decoder, Encoded, RowUpdate, RuntimeError, SessionOptions},
};

/// A beam: its last id, its sum of log-probabilities, and whether it is a prefix of the reference's caption.
struct Beam {
    last: i64,
    sum: f64,
    is_reference: bool,
}

/// A continuation of beam `parent`.
struct Candidate {
    parent: usize,
    id: usize,
    sum: f64,
}

/// The beam search of one image.
struct BeamReplay<'a> {
    reference: &'a [i64],
    beams: Vec<Beam>,
    /// Margin by which the reference's prefix was dropped, nats per token; `None` while it is among the beams.
    margin: Option<f64>,
}

/// Repeats the search for images with a reference. Returns the margin, in nats per token, by which the reference's caption was
/// dropped, 0 if it never was; `None` for images without a reference.
///
/// # Errors
/// When the decoder cannot be loaded or fails.
pub(super) fn margins(
    model: &ModelFolder,
    options: &SessionOptions,
    encoded: &Encoded,
    references: &[Option<&[i64]>],
    (limits, beams): (&GenerationLimits, usize),
) -> Result<Vec<Option<f64>>, RuntimeError> {
    // Rows are read from one half of a slot and copied to the other.
    let rows = 2 * beams;
    let mut decoder = Decoder::load(model, options, limits.max_tokens, rows)?;
    decoder.resize(references.len(), &[])?;
    let places: Vec<(usize, usize)> = (0..references.len()).map(|i| (i, i)).collect();
    decoder.load_images(&places, encoded)?;
    let start = |reference| BeamReplay {
        reference,
        beams: vec![Beam { last: limits.special.start, sum: 0.0, is_reference: true }],
        margin: None,
    };
    let mut searches: Vec<Option<BeamReplay<'_>>> =
        references.iter().map(|reference| reference.map(start)).collect();
    for position in 0..limits.max_tokens {
        let (from, to) = (position % 2 * beams, (position + 1) % 2 * beams);
        let mut updates = vec![None; references.len() * rows];
        for (slot, search) in searches.iter().enumerate() {
            let running = search.iter().filter(|s| s.margin.is_none()).flat_map(|s| &s.beams);
            for (row, beam) in running.enumerate() {
                updates[slot * rows + from + row] = Some(RowUpdate { id: beam.last, position });
            }
        }
        if updates.iter().all(Option::is_none) {
            break;
        }
        let logits = decoder.step(&updates)?;
        let mut copies = Vec::new();
        for (slot, search) in searches.iter_mut().enumerate() {
            let Some(search) = search.as_mut().filter(|s| s.margin.is_none()) else { continue };
            let vocabulary = logits.len() / updates.len();
            let own = &logits[(slot * rows + from) * vocabulary..][..search.beams.len() * vocabulary];
            let parents = search.advance(own, position, (limits, beams));
            copies.extend(
                parents
                    .iter()
                    .enumerate()
                    .map(|(row, parent)| (slot * rows + from + parent, slot * rows + to + row, position + 1)),
            );
        }
        decoder.copy_caches(&copies)?;
    }
    Ok(searches.into_iter().map(|search| search.map(|s| s.margin.unwrap_or(0.0))).collect())
}

impl BeamReplay<'_> {
    /// Advances by one step with the beams' logits `[beams, V]`; returns every new beam's parent.
    fn advance(
        &mut self,
        logits: &[f32],
        position: usize,
        (limits, beams): (&GenerationLimits, usize),
    ) -> Vec<usize> {
        let vocabulary = logits.len() / self.beams.len();
        let mut candidates: Vec<Candidate> = Vec::with_capacity(logits.len());
        for (parent, (beam, logits)) in self.beams.iter().zip(logits.chunks_exact(vocabulary)).enumerate() {
            let all = log_sum_of_exponentials(logits);
            let allowed = logits.iter().enumerate().filter(|(id, _)| limits.allows(*id, position));
            candidates.extend(allowed.map(|(id, logit)| Candidate {
                parent,
                id,
                sum: beam.sum + f64::from(*logit) - all,
            }));
        }
        candidates.sort_by(|a, b| b.sum.total_cmp(&a.sum));
        let end = limits.special.end;
        let next = usize::try_from(self.reference[position]).unwrap_or(usize::MAX);
        let is_reference = |c: &Candidate| c.id == next && self.beams[c.parent].is_reference;
        let Some(wanted) = candidates.iter().find(|c| is_reference(c)).map(|c| c.sum) else {
            self.margin = Some(f64::INFINITY);
            return Vec::new();
        };
        let margin_to =
            |than: Option<&Candidate>| than.map_or(0.0, |c| (c.sum - wanted) / (position + 1) as f64);
        if position + 1 == self.reference.len() {
            // The end must be among the best `beams`; without an end token, the maximal length was reached.
            let ends = self.reference[position] == end;
            let mut rivals = candidates.iter().filter(|c| ends || c.id as i64 != end);
            self.margin = Some(margin_to(rivals.nth(beams - 1)).max(0.0));
            return Vec::new();
        }
        let kept: Vec<&Candidate> =
            candidates.iter().take(2 * beams).filter(|c| c.id as i64 != end).take(beams).collect();
        if !kept.iter().any(|c| is_reference(c)) {
            // NaN is kept, so that no bound holds for it.
            self.margin = Some(margin_to(kept.last().copied()));
            return Vec::new();
        }
        let parents = kept.iter().map(|c| c.parent).collect();
        let beams =
            kept.iter().map(|c| Beam { last: c.id as i64, sum: c.sum, is_reference: is_reference(c) });
        self.beams = beams.collect();
        parents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SpecialIds;

    const LIMITS: GenerationLimits =
        GenerationLimits { special: SpecialIds { pad: 0, start: 5, end: 6 }, min_tokens: 0, max_tokens: 4 };

    fn search(reference: &[i64]) -> BeamReplay<'_> {
        let start = Beam { last: 5, sum: 0.0, is_reference: true };
        BeamReplay { reference, beams: vec![start], margin: None }
    }

    /// Two beams over seven ids, of which 1 and 2 are kept; 3 is 0.1 below.
    const LOGITS: [f32; 7] = [9.0, 3.0, 2.0, 1.9, 0.0, 0.0, -1.0];

    #[test]
    fn dropped_caption_has_its_distance_to_the_last_beam() {
        let mut search = search(&[3, 6]);
        assert!(search.advance(&LOGITS, 0, (&LIMITS, 2)).is_empty());
        let margin = search.margin.expect("dropped");
        assert!((margin - 0.1).abs() < 1e-6, "{margin}");
    }

    #[test]
    fn margin_of_a_kept_caption_is_zero() {
        let mut search = search(&[2, 6]);
        assert_eq!(search.advance(&LOGITS, 0, (&LIMITS, 2)), [0, 0]);
        assert!(search.margin.is_none() && search.beams[1].is_reference && !search.beams[0].is_reference);
        // The second beam ends here, as its best continuation.
        let ending = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0];
        let both: Vec<f32> = LOGITS.iter().chain(&ending).copied().collect();
        assert!(search.advance(&both, 1, (&LIMITS, 2)).is_empty());
        assert_eq!(search.margin, Some(0.0));
    }
}
