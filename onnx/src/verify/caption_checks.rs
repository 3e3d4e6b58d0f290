//! Compares generated captions with the golden's.
//!
//! In fp32 they must be equal. In fp16 and int8 two close logits may change ranks, after which the text differs. A golden does
//! not hold the logits along its captions, so the model that is verified reads the reference's caption, and at every position
//! the reference's id must have the best logit or one within the tolerance of it. (If no logit is off by more than e, that id is
//! at most 2 e below the model's best.) Logits themselves are compared elsewhere, so a model with equal logits for all tokens does
//! not pass. The model's own captions must follow the same rule, which checks token selection on a device.

use std::collections::BTreeMap;

use super::{
    beam_replay,
    compare::max_or_nan,
    criteria::Criteria,
    forced::{CaptionScore, ForcedDecoder, GenerationLimits},
    golden::{Golden, GoldenBeams},
    report::{Check, VerifyError},
};
use crate::{
    caption::{Admission, BeamSettings, CaptionSettings, Captioner, GeneratedTokens, Strategy},
    model::ModelFolder,
    runtime::{Encoded, RuntimeError, SessionOptions},
};

/// Checks a model's captions against a golden.
pub(super) struct CaptionChecker<'a> {
    /// The model that is verified.
    pub(super) model: &'a ModelFolder,
    /// How its sessions run.
    pub(super) options: &'a SessionOptions,
    /// The reference.
    pub(super) golden: &'a Golden,
    /// The golden's images, encoded.
    pub(super) encoded: &'a Encoded,
    /// Bounds on differences.
    pub(super) criteria: Criteria,
}

impl CaptionChecker<'_> {
    fn limits(&self) -> GenerationLimits {
        let generation = self.golden.generation;
        GenerationLimits {
            special: self.model.spec.special_ids,
            min_tokens: generation.min_tokens,
            max_tokens: generation.max_tokens,
        }
    }

    /// Checks greedy captions.
    ///
    /// # Errors
    /// When the model fails.
    pub(super) fn greedy(&self, forced: &mut ForcedDecoder, want: &[Vec<i64>]) -> Result<Check, VerifyError> {
        const TENSOR: &str = "greedy";
        let got = match self.captions(Strategy::Greedy)? {
            Ok(captions) => ids(&captions),
            Err(reason) => return Ok(Check::new(TENSOR, false, reason)),
        };
        let equal = equal_rows(&got, want);
        let mut detail = format!("{equal} of {} rows equal", want.len());
        let Some(tolerance) = self.criteria.choice else {
            return Ok(Check::new(TENSOR, equal == want.len(), detail));
        };
        let limits = self.limits();
        let mut gap = 0.0;
        for captions in [want, &got] {
            let scores = forced.score_captions(captions, &[limits.special.start], &limits)?;
            gap = scores.iter().map(|caption| caption.gap).fold(gap, max_or_nan);
        }
        if equal < want.len() {
            let first = first_difference(&got, want);
            detail += &format!(", first difference at token {first}");
        }
        detail += &format!(
            "; selected tokens are at most {gap:.4} standard deviations below the best (allowed {tolerance})"
        );
        Ok(Check::new(TENSOR, got.len() == want.len() && gap <= tolerance, detail))
    }

    /// Checks beam search with transformers' defaults: ids, and scores as log-probability / length.
    ///
    /// # Errors
    /// When the model fails.
    pub(super) fn beam(
        &self,
        forced: &mut ForcedDecoder,
        want: &GoldenBeams,
    ) -> Result<[Check; 2], VerifyError> {
        let beams = self.golden.generation.beams;
        let strategy = Strategy::Beam(BeamSettings { beams, ..BeamSettings::default() });
        let captions = match self.captions(strategy)? {
            Ok(captions) => captions,
            Err(reason) => {
                return Ok([
                    Check::new("beam", false, reason.clone()),
                    Check::new("beam_score", false, reason),
                ]);
            }
        };
        let got = ids(&captions);
        let equal = equal_rows(&got, &want.ids);
        let reported: Vec<f64> =
            captions.iter().map(|c| f64::from(c.logprob) / c.ids.len().max(1) as f64).collect();
        let complete = reported.len() == want.scores.len();
        let mut detail = format!("{equal} of {} rows equal", want.ids.len());
        if self.criteria.choice.is_none() {
            let difference =
                largest(reported.iter().copied().zip(want.scores.iter().copied().map(f64::from)));
            return Ok([
                Check::new("beam", equal == want.ids.len(), detail),
                self.score_check(complete, difference),
            ]);
        }
        let limits = self.limits();
        let start = [limits.special.start];
        let score = |ids: &[Vec<i64>], scores: Vec<CaptionScore>| -> Vec<f64> {
            scores.iter().zip(ids).map(|(c, ids)| c.log_probability / ids.len().max(1) as f64).collect()
        };
        let reference = score(&want.ids, forced.score_captions(&want.ids, &start, &limits)?);
        let own = score(&got, forced.score_captions(&got, &start, &limits)?);
        let mut explained = true;
        if equal < want.ids.len() {
            let margin = self.explain((&got, &own), (&want.ids, &reference), &limits)?;
            explained = margin <= self.criteria.score;
            detail += &format!(
                "; scores of the others are within {margin:.4} of the selected ones (allowed {})",
                self.criteria.score
            );
        }
        // Compares the model's scores of the reference's captions, and its reported scores of its own.
        let reference = reference.into_iter().zip(want.scores.iter().copied().map(f64::from));
        let difference = largest(reference.chain(reported.into_iter().zip(own)));
        Ok([Check::new("beam", complete && explained, detail), self.score_check(complete, difference)])
    }

    fn score_check(&self, complete: bool, difference: f32) -> Check {
        let max = self.criteria.score;
        let detail = format!("max abs difference {difference:.2e} nats per token (allowed {max:.0e})");
        Check::new("beam_score", complete && difference <= max, detail)
    }

    /// Returns how close the decisions were that made rows differ, nats per token.
    fn explain(
        &self,
        (got, own): (&[Vec<i64>], &[f64]),
        (want, reference): (&[Vec<i64>], &[f64]),
        limits: &GenerationLimits,
    ) -> Result<f32, RuntimeError> {
        let (start, search) = ([limits.special.start], (limits, self.golden.generation.beams));
        let replay = |captions: &[Vec<i64>], others: &[Vec<i64>]| {
            let captions = beam_replay::differing(captions, others);
            beam_replay::replay(self.model, self.options, self.encoded, &captions, &start, search)
        };
        Ok(beam_replay::closest(&replay(want, got)?, &replay(got, want)?, [own, reference]))
    }

    /// Returns the best caption of every image, or why there are none: usually logits that are not finite.
    fn captions(&self, strategy: Strategy) -> Result<Result<Vec<GeneratedTokens>, String>, RuntimeError> {
        match self.generate(strategy) {
            Ok(captions) => Ok(Ok(captions)),
            Err(RuntimeError::Input(reason)) => Ok(Err(format!("no captions: {reason}"))),
            Err(error) => Err(error),
        }
    }

    fn generate(&self, strategy: Strategy) -> Result<Vec<GeneratedTokens>, RuntimeError> {
        let generation = self.golden.generation;
        let plain = CaptionSettings::greedy(generation.max_tokens, generation.min_tokens, self.golden.count);
        let settings = CaptionSettings { strategy, ..plain };
        let mut captioner = Captioner::load(self.model, self.options, settings)?;
        let admissions: Vec<Admission> =
            (0..self.golden.count as u64).map(|ticket| Admission { ticket, seed: 0 }).collect();
        captioner.admit(&admissions, &self.golden.images)?;
        let mut captions = BTreeMap::new();
        while captioner.active() > 0 {
            for generated in captioner.step()? {
                captions.extend(generated.candidates.into_iter().next().map(|best| (generated.ticket, best)));
            }
        }
        Ok(captions.into_values().collect())
    }
}

fn ids(captions: &[GeneratedTokens]) -> Vec<Vec<i64>> {
    captions.iter().map(|caption| caption.ids.clone()).collect()
}

fn equal_rows(got: &[Vec<i64>], want: &[Vec<i64>]) -> usize {
    got.iter().zip(want).filter(|(got, want)| got == want).count()
}

/// Returns the earliest token, counted from 1, at which two rows differ.
fn first_difference(got: &[Vec<i64>], want: &[Vec<i64>]) -> usize {
    let differs = |(got, want): (&Vec<i64>, &Vec<i64>)| {
        let shared = got.iter().zip(want).take_while(|(a, b)| a == b).count();
        (got != want).then_some(shared + 1)
    };
    got.iter().zip(want).filter_map(differs).min().unwrap_or(0)
}

fn largest(pairs: impl Iterator<Item = (f64, f64)>) -> f32 {
    pairs.map(|(a, b)| (a - b).abs() as f32).fold(0.0, max_or_nan)
}
