//! Captions of a model in fp16 or int8 against a golden's.
//!
//! Two close logits may change ranks, after which the text differs. So the model reads both captions. Of greedy ones every id must have
//! the best logit or one within the tolerance of it. Of beams the decision that made captions differ must have been closer than
//! the bound on scores (see `beam_replay`), and its scores of the reference's captions must be the reference's. Beams other than the best one are
//! not compared.

use super::{
    checks::check_numbers,
    generation::{Captions, Generation},
    golden::unusable,
};
use crate::{
    caption::GeneratedTokens,
    model::SpecialIds,
    verify::{
        beam_replay,
        compare::max_or_nan,
        forced::{CaptionScore, ForcedDecoder, GenerationLimits},
        report::{Check, VerifyError},
    },
};

/// An id that no token has.
const NO_TOKEN: i64 = -1;

/// Captions of one kind.
pub(super) struct Rounded<'a> {
    /// Model, golden and bounds.
    pub(super) captions: &'a Captions<'a>,
    /// How they were generated.
    pub(super) generation: &'a Generation,
    /// The start token and the prompt.
    pub(super) prefix: &'a [i64],
    /// Largest distance of a selected token's logit below the best one, in standard deviations of the row.
    pub(super) tolerance: f32,
}

impl Rounded<'_> {
    /// Checks generated captions against the golden's, whose ids are `want`; `detail` says how many are equal.
    ///
    /// # Errors
    /// When a tensor is malformed or the model fails.
    pub(super) fn checks(
        &self,
        (got, want): (&[GeneratedTokens], &[Vec<i64>]),
        mut detail: String,
    ) -> Result<Vec<Check>, VerifyError> {
        let (all, generation) = (self.captions, self.generation);
        if generation.all_beams {
            detail += "; beams other than the best one may change ranks";
            return Ok(vec![Check::unchecked(generation.ids, &detail)]);
        }
        let limits = self.limits();
        let own: Vec<Vec<i64>> = got.iter().map(|caption| caption.ids.clone()).collect();
        let longest = want.iter().chain(&own).map(Vec::len).max().unwrap_or(0);
        let images = (all.golden.count, all.encoded);
        let mut forced = ForcedDecoder::load(all.model, all.options, self.prefix.len() + longest, images)?;
        let reference = forced.score_captions(want, self.prefix, &limits)?;
        let forced = forced.score_captions(&own, self.prefix, &limits)?;
        let scores = |captions: &[CaptionScore], ids: &[Vec<i64>]| -> Vec<f64> {
            captions.iter().zip(ids).map(|(caption, ids)| self.score(caption, ids)).collect()
        };
        let (of_reference, of_own) = (scores(&reference, want), scores(&forced, &own));
        let (reported, bound) = all.scores(generation, got);
        let passed = if generation.has_beams {
            let search = (&limits, all.golden.settings.num_beams);
            let replay = |captions: &[Vec<i64>], others: &[Vec<i64>]| {
                let captions = beam_replay::differing(captions, others);
                beam_replay::replay(all.model, all.options, all.encoded, &captions, self.prefix, search)
            };
            let margin =
                beam_replay::closest(&replay(want, &own)?, &replay(&own, want)?, [&of_own, &of_reference]);
            detail += &format!(
                "; scores of the others are within {margin:.4} of the selected ones (allowed {bound})"
            );
            margin <= bound
        } else {
            let gap = reference.iter().chain(&forced).map(|caption| caption.gap).fold(0.0, max_or_nan);
            detail += &format!(
                "; selected tokens are at most {gap:.4} standard deviations below the best (allowed {})",
                self.tolerance
            );
            gap <= self.tolerance
        };
        let mut checks = vec![Check::new(generation.ids, got.len() == want.len() && passed, detail)];
        if let Some(name) = generation.score.filter(|name| all.golden.file.has(name)) {
            // The model's scores of the reference's captions, and the reported ones of its own.
            let wanted = all.wanted_scores(generation, name).map_err(|what| unusable(all.path, what))?;
            let single = |scores: &[f64]| scores.iter().map(|score| *score as f32).collect::<Vec<f32>>();
            let (got, want) =
                ([single(&of_reference), reported].concat(), [wanted, single(&of_own)].concat());
            checks.push(check_numbers(name, &got, &want, bound));
        }
        Ok(checks)
    }

    /// Returns which ids a generation may select. transformers keeps a BLIP from none but the end token.
    fn limits(&self) -> GenerationLimits {
        let s = &self.captions.golden.settings;
        let generated = |length: usize| length.saturating_sub(self.prefix.len());
        GenerationLimits {
            special: SpecialIds { pad: NO_TOKEN, ..self.captions.model.spec.special_ids },
            min_tokens: if self.generation.has_min_length { generated(s.min_length) } else { 0 },
            max_tokens: generated(s.max_length),
        }
    }

    /// Returns a caption's score as the golden has it.
    fn score(&self, caption: &CaptionScore, ids: &[i64]) -> f64 {
        let length = ids.len().max(1) as f64;
        match self.generation.has_beams {
            true => {
                caption.log_probability / length.powf(f64::from(self.captions.golden.settings.length_penalty))
            }
            false => caption.log_probability,
        }
    }
}
