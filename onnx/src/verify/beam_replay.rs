//! Finds the step at which a beam search drops a caption, and the margin by which it does or nearly did.
//!
//! Rounding changes scores a little. Where two beams have nearly equal scores, another one may be kept, and the final caption may
//! differ from its first token on; its score then says nothing about the reference's. So the search is repeated by its definition
//! (transformers' candidates: the best `2 * beams` of all continuations, of which the best `beams` that do not end are kept), on
//! the logits of the model that is verified, until the reference's caption is no longer among the beams. Where it stays among them, the
//! reference's search dropped the model's caption; then the search is repeated for that, and must have kept it narrowly.

use super::{
    compare::max_or_nan,
    forced::{GenerationLimits, log_sum_of_exponentials},
};
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
    /// Smallest margin by which it was kept, nats per token.
    slack: f64,
}

/// How a search treats a caption, nats per token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Replay {
    /// By how much it is dropped; 0 if it never is.
    margin: f64,
    /// Smallest margin by which it is kept before.
    slack: f64,
}

/// Repeats the search for images with a reference, from `prefix` on, the start token and a prompt; `None` for images
/// without a reference.
///
/// # Errors
/// When the decoder cannot be loaded or fails.
pub(super) fn replay(
    model: &ModelFolder,
    options: &SessionOptions,
    encoded: &Encoded,
    references: &[Option<&[i64]>],
    prefix: &[i64],
    (limits, beams): (&GenerationLimits, usize),
) -> Result<Vec<Option<Replay>>, RuntimeError> {
    let Some((last, prompt)) = prefix.split_last() else {
        return Err(RuntimeError::Input("a search begins with a start token".into()));
    };
    // Rows are read from one half of a slot and copied to the other.
    let rows = 2 * beams;
    let mut decoder = Decoder::load(model, options, prompt.len() + limits.max_tokens, rows)?;
    decoder.resize(references.len(), &[])?;
    let places: Vec<(usize, usize)> = (0..references.len()).map(|i| (i, i)).collect();
    decoder.load_images(&places, encoded)?;
    for (position, id) in prompt.iter().enumerate() {
        let mut updates = vec![None; references.len() * rows];
        updates.iter_mut().step_by(rows).for_each(|row| *row = Some(RowUpdate { id: *id, position }));
        decoder.step(&updates)?;
    }
    let start = |reference| BeamReplay {
        reference,
        beams: vec![Beam { last: *last, sum: 0.0, is_reference: true }],
        margin: None,
        slack: f64::INFINITY,
    };
    let mut searches: Vec<Option<BeamReplay<'_>>> =
        references.iter().map(|reference| reference.map(start)).collect();
    for position in 0..limits.max_tokens {
        let (from, to) = (position % 2 * beams, (position + 1) % 2 * beams);
        let mut updates = vec![None; references.len() * rows];
        for (slot, search) in searches.iter().enumerate() {
            let running = search.iter().filter(|s| s.margin.is_none()).flat_map(|s| &s.beams);
            for (row, beam) in running.enumerate() {
                updates[slot * rows + from + row] =
                    Some(RowUpdate { id: beam.last, position: prompt.len() + position });
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
            let (first, length) = (slot * rows, prompt.len() + position + 1);
            let copy = |(row, parent): (usize, &usize)| (first + from + parent, first + to + row, length);
            copies.extend(parents.iter().enumerate().map(copy));
        }
        decoder.copy_caches(&copies)?;
    }
    let replay = |s: BeamReplay<'_>| Replay { margin: s.margin.unwrap_or(0.0), slack: s.slack };
    Ok(searches.into_iter().map(|search| search.map(replay)).collect())
}

/// Returns the captions that differ from those of `others`, `None` in place of the equal ones.
pub(super) fn differing<'a>(captions: &'a [Vec<i64>], others: &[Vec<i64>]) -> Vec<Option<&'a [i64]>> {
    let rows = captions.iter().enumerate();
    rows.map(|(row, ids)| (others.get(row) != Some(ids)).then_some(ids.as_slice())).collect()
}

/// Returns how close the decisions were that made captions differ, nats per token: by how much the search drops the reference's caption
/// (`references`) or, if it never does, by how little it keeps its own (`captions`) where that has the better score, or the difference of
/// the two final scores, `scores`, its own and the reference's.
pub(super) fn closest(
    references: &[Option<Replay>],
    captions: &[Option<Replay>],
    scores: [&[f64]; 2],
) -> f32 {
    let distances = scores[0].iter().zip(scores[1]).map(|(own, reference)| own - reference);
    let rows = references.iter().zip(captions).zip(distances);
    let decision = |((reference, own), distance): ((&Option<Replay>, &Option<Replay>), f64)| {
        let (reference, own) = ((*reference)?, (*own)?);
        // Only a better caption can be one that the reference's search dropped. NaN stays, which no bound holds for.
        let kept = if distance > 0.0 { distance.min(own.slack) } else { -distance };
        Some(if reference.margin == 0.0 { kept } else { reference.margin })
    };
    rows.filter_map(decision).fold(0.0, |m, d| max_or_nan(m, d as f32))
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
        let slack_to = |than: Option<&Candidate>| {
            than.map_or(f64::INFINITY, |c| (wanted - c.sum) / (position + 1) as f64)
        };
        if position + 1 == self.reference.len() {
            // The end must be among the best `beams`; without an end token, the maximal length was reached.
            let ends = self.reference[position] == end;
            let mut rivals = candidates.iter().filter(|c| ends || c.id as i64 != end).skip(beams - 1);
            self.margin = Some(margin_to(rivals.next()).max(0.0));
            self.slack = self.slack.min(slack_to(rivals.next()));
            return Vec::new();
        }
        let kept: Vec<&Candidate> =
            candidates.iter().take(2 * beams).filter(|c| c.id as i64 != end).take(beams).collect();
        if !kept.iter().any(|c| is_reference(c)) {
            // NaN is kept, so that no bound holds for it.
            self.margin = Some(margin_to(kept.last().copied()));
            return Vec::new();
        }
        self.slack = self.slack.min(slack_to(candidates.iter().filter(|c| c.id as i64 != end).nth(beams)));
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
        BeamReplay { reference, beams: vec![start], margin: None, slack: f64::INFINITY }
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
        // The next best, 3, is 0.1 below.
        assert!((search.slack - 0.1).abs() < 1e-6, "{}", search.slack);
        // The second beam ends here, as its best continuation.
        let ending = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0];
        let both: Vec<f32> = LOGITS.iter().chain(&ending).copied().collect();
        assert!(search.advance(&both, 1, (&LIMITS, 2)).is_empty());
        assert_eq!(search.margin, Some(0.0));
    }

    #[test]
    fn narrowest_decision_explains_another_caption() {
        let replay = |margin, slack| Some(Replay { margin, slack });
        let of =
            |reference, own, scores: [f64; 2]| closest(&[reference], &[own], [&[scores[0]], &[scores[1]]]);
        // The reference's caption was dropped; or stays, and the own was kept narrowly; or both scores are close.
        assert_eq!(of(replay(0.25, 9.0), replay(0.0, 0.01), [-1.0, -2.0]), 0.25);
        assert_eq!(of(replay(0.0, 9.0), replay(0.0, 0.125), [-1.0, -2.0]), 0.125);
        assert_eq!(of(replay(0.0, 9.0), replay(0.0, 0.5), [-1.0, -1.25]), 0.25);
        // A worse caption is none that the reference's search dropped.
        assert_eq!(of(replay(0.0, 9.0), replay(0.0, 0.125), [-2.0, -1.0]), 1.0);
        assert!(of(replay(0.0, 9.0), replay(0.0, 0.5), [-1.0, f64::NAN]).is_nan());
        // Equal captions have no replay.
        assert_eq!(of(None, None, [-1.0, -1.0]), 0.0);
    }
}
