//! Generated captions against the golden's.
//!
//! In fp32 they must be equal. In fp16 and int8 two logits that lie close together may change places, and everything behind that
//! token is another text. A golden does not hold the logits along its captions, so the margin is taken the other way round, which
//! needs no more than its ids: the reference's caption is read by the model that is verified, and at every position, also behind
//! the first difference, the id that the reference chose must have the best logit or one within the tolerance of it. If no logit is
//! off by more than e, the reference's choice cannot lie more than 2 e below our best; so this is the statement that the
//! reference's two best lie that close, made with numbers that are at hand. Logits themselves are compared with the reference's
//! elsewhere, so a model that finds all tokens alike does not pass. Captions of our own are held to the same rule: what chooses
//! tokens on a device is checked too.

use std::collections::BTreeMap;

use super::{
    Check, Outcome, VerifyError, beam_replay,
    compare::worst,
    criteria::Criteria,
    forced::{ForcedDecoder, GenerationRules},
    golden::{Golden, GoldenBeams},
};
use crate::{
    caption::{Admission, BeamSettings, CaptionSettings, Captioner, Decoded, Strategy},
    model::ModelFolder,
    runtime::{Encoded, RuntimeError, SessionOptions},
};

/// What captions are generated with.
pub struct Generator<'a> {
    /// The model that is verified.
    pub model: &'a ModelFolder,
    /// What computes.
    pub options: &'a SessionOptions,
    /// The reference.
    pub golden: &'a Golden,
    /// The golden's images, encoded.
    pub encoded: &'a Encoded,
    /// What is tolerated.
    pub criteria: Criteria,
}

impl Generator<'_> {
    fn rules(&self) -> GenerationRules {
        let generation = self.golden.generation;
        GenerationRules {
            special: self.model.spec.special_ids,
            min_tokens: generation.min_tokens,
            max_tokens: generation.max_tokens,
        }
    }

    /// Greedy captions.
    ///
    /// # Errors
    /// When the model fails.
    pub fn greedy(&self, forced: &mut ForcedDecoder, want: &[Vec<i64>]) -> Result<Check, VerifyError> {
        const TENSOR: &str = "greedy";
        let got = match self.captions(Strategy::Greedy)? {
            Ok(captions) => ids(&captions),
            Err(why) => return Ok(Check::new(TENSOR, false, why)),
        };
        let equal = equal_rows(&got, want);
        let mut detail = format!("{equal} of {} rows equal", want.len());
        let Some(tolerance) = self.criteria.choice else {
            return Ok(Check::new(TENSOR, equal == want.len(), detail));
        };
        let rules = self.rules();
        let mut gap = 0.0;
        for captions in [want, &got] {
            let judged = forced.judge_captions(captions, &rules)?;
            gap = judged.iter().map(|caption| caption.gap).fold(gap, worst);
        }
        if equal < want.len() {
            let first = first_difference(&got, want);
            detail += &format!(", the first difference at token {first}");
        }
        detail += &format!(
            "; chosen tokens are the best or at most {gap:.4} standard deviations below (allowed {tolerance})"
        );
        Ok(Check::new(TENSOR, got.len() == want.len() && gap <= tolerance, detail))
    }

    /// Beam search with transformers' defaults: ids, and scores as log-probability / length.
    ///
    /// # Errors
    /// When the model fails.
    pub fn beam(&self, forced: &mut ForcedDecoder, want: &GoldenBeams) -> Result<[Check; 2], VerifyError> {
        let beams = self.golden.generation.beams;
        let strategy = Strategy::Beam(BeamSettings { beams, ..BeamSettings::default() });
        let captions = match self.captions(strategy)? {
            Ok(captions) => captions,
            Err(why) => {
                return Ok([Check::new("beam", false, why.clone()), Check::new("beam_score", false, why)]);
            }
        };
        let got = ids(&captions);
        let equal = equal_rows(&got, &want.ids);
        let told: Vec<f64> =
            captions.iter().map(|c| f64::from(c.logprob) / c.ids.len().max(1) as f64).collect();
        let complete = told.len() == want.scores.len();
        let mut detail = format!("{equal} of {} rows equal", want.ids.len());
        if self.criteria.choice.is_none() {
            let difference = largest(told.iter().copied().zip(want.scores.iter().copied().map(f64::from)));
            return Ok([
                Check::new("beam", equal == want.ids.len(), detail),
                self.score_check(complete, difference),
            ]);
        }
        let rules = self.rules();
        let score = |ids: &[Vec<i64>], judged: Vec<super::forced::ForcedCaption>| -> Vec<f64> {
            judged.iter().zip(ids).map(|(c, ids)| c.log_probability / ids.len().max(1) as f64).collect()
        };
        let reference = score(&want.ids, forced.judge_captions(&want.ids, &rules)?);
        let own = score(&got, forced.judge_captions(&got, &rules)?);
        let mut explained = true;
        if equal < want.ids.len() {
            let margin = self.explain((&got, &own), (&want.ids, &reference), &rules)?;
            explained = margin <= self.criteria.score;
            detail += &format!(
                "; the others' scores lie within {margin:.4} of those that won (allowed {})",
                self.criteria.score
            );
        }
        // The reference's captions as this model scores them, and whether it scores its own as it says.
        let reference = reference.into_iter().zip(want.scores.iter().copied().map(f64::from));
        let difference = largest(reference.chain(told.into_iter().zip(own)));
        Ok([Check::new("beam", complete && explained, detail), self.score_check(complete, difference)])
    }

    fn score_check(&self, complete: bool, difference: f32) -> Check {
        let most = self.criteria.score;
        let detail = format!("max abs difference {difference:.2e} nats per token (allowed {most:.0e})");
        Check::new("beam_score", complete && difference <= most, detail)
    }

    /// How close the decisions were that made unequal rows unequal, nats per token: the smaller of what the reference's caption
    /// lacked when our search dropped it, and, where it was never dropped, the distance of the two final scores.
    fn explain(
        &self,
        (got, own): (&[Vec<i64>], &[f64]),
        (want, reference): (&[Vec<i64>], &[f64]),
        rules: &GenerationRules,
    ) -> Result<f32, RuntimeError> {
        let differing: Vec<Option<&[i64]>> = want
            .iter()
            .enumerate()
            .map(|(row, want)| (got.get(row) != Some(want)).then_some(want.as_slice()))
            .collect();
        let beams = self.golden.generation.beams;
        let margins =
            beam_replay::margins(self.model, self.options, self.encoded, &differing, (rules, beams))?;
        let rows = margins.iter().zip(own.iter().zip(reference));
        Ok(rows
            .filter_map(|(margin, (own, reference))| margin.map(|margin| (margin, (own - reference).abs())))
            .map(|(margin, distance)| if margin == 0.0 { distance } else { margin })
            .fold(0.0, |m, d| worst(m, d as f32)))
    }

    /// The best caption of every image, or why the model yields none: not numbers, mostly.
    fn captions(&self, strategy: Strategy) -> Result<Result<Vec<Decoded>, String>, RuntimeError> {
        match self.generate(strategy) {
            Ok(captions) => Ok(Ok(captions)),
            Err(RuntimeError::Input(why)) => Ok(Err(format!("no captions: {why}"))),
            Err(error) => Err(error),
        }
    }

    fn generate(&self, strategy: Strategy) -> Result<Vec<Decoded>, RuntimeError> {
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

fn ids(captions: &[Decoded]) -> Vec<Vec<i64>> {
    captions.iter().map(|caption| caption.ids.clone()).collect()
}

fn equal_rows(got: &[Vec<i64>], want: &[Vec<i64>]) -> usize {
    got.iter().zip(want).filter(|(got, want)| got == want).count()
}

/// The earliest token, counted from 1, at which any two rows differ.
fn first_difference(got: &[Vec<i64>], want: &[Vec<i64>]) -> usize {
    let differs = |(got, want): (&Vec<i64>, &Vec<i64>)| {
        let shared = got.iter().zip(want).take_while(|(a, b)| a == b).count();
        (got != want).then_some(shared + 1)
    };
    got.iter().zip(want).filter_map(differs).min().unwrap_or(0)
}

fn largest(pairs: impl Iterator<Item = (f64, f64)>) -> f32 {
    pairs.map(|(a, b)| (a - b).abs() as f32).fold(0.0, worst)
}

impl Check {
    /// A tensor that was compared.
    pub(super) fn new(tensor: &'static str, passed: bool, detail: String) -> Self {
        let outcome = if passed { Outcome::Pass } else { Outcome::Fail };
        Self { tensor, outcome, detail }
    }
}
