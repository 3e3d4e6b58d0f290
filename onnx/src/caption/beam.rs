//! Beam search over one image, with the semantics of Hugging Face's transformers on log-probabilities.
//!
//! transformers ends a search by two rules. Until version 4 (BeamSearchScorer, which open_clip uses) a continuation that ends counts
//! as the best attainable too, and at the maximal length all unfinished beams are finished. Since version 5 only what goes on counts,
//! and at the maximal length the best `beams` continuations are finished, whether they end or not.
//!
//! A beam occupies a row of the decoder; when beams are replaced, a row's cache is copied only where a beam has more than
//! one successor. The copying itself is left to the generator.

use super::{
    context::RowContext,
    generated::GeneratedTokens,
    settings::{BeamSettings, EarlyStopping},
    token_selection::{LogitsRequest, TopTokens, non_finite_logits},
};
use crate::runtime::{RowUpdate, RuntimeError};

/// An unfinished beam.
#[derive(Clone, Debug)]
struct Beam {
    ids: Vec<i64>,
    logprob: f64,
    /// Its row in the decoder, 0 to beams - 1.
    row: usize,
}

/// A finished beam.
#[derive(Clone, Debug)]
struct Hypothesis {
    ids: Vec<i64>,
    logprob: f64,
    score: f64,
}

/// A beam, and a token that may follow it.
struct Successor {
    beam: usize,
    id: usize,
    logprob: f64,
}

/// The beams of one image.
#[derive(Debug)]
pub(super) struct BeamSearch {
    settings: BeamSettings,
    /// Tokens that the decoder has read in every row: prefix, then generated ones.
    read: usize,
    /// Unfinished beams, best first.
    beams: Vec<Beam>,
    /// Finished beams, best first, at most as many as beams.
    finished: Vec<Hypothesis>,
}

impl BeamSearch {
    /// Starts with one empty beam; the first step fills the others.
    pub(super) fn new(settings: BeamSettings) -> Self {
        let first = Beam { ids: Vec::new(), logprob: 0.0, row: 0 };
        Self { settings, read: 0, beams: vec![first], finished: Vec::new() }
    }

    /// Appends what each row reads next.
    pub(super) fn append_inputs(&self, prefix: &[i64], out: &mut Vec<Option<RowUpdate>>) {
        let start = out.len();
        out.resize(start + self.settings.beams, None);
        for beam in &self.beams {
            let id = prefix.get(self.read).or_else(|| beam.ids.last()).copied().unwrap_or_default();
            out[start + beam.row] = Some(RowUpdate { id, position: self.read });
        }
    }

    /// Appends what each row requests after it has read that: its best successors, nothing within the prefix.
    pub(super) fn append_requests(&self, context: &RowContext<'_>, out: &mut Vec<Option<LogitsRequest>>) {
        let start = out.len();
        out.resize(start + self.settings.beams, None);
        if self.read + 1 < context.prefix.len() {
            return;
        }
        for beam in &self.beams {
            let forbid_end = beam.ids.len() < context.settings.min_tokens;
            out[start + beam.row] = Some(LogitsRequest { forbid_end, ..LogitsRequest::default() });
        }
    }

    /// Takes the tokens of all rows; appends to `copies` the rows `(from, to)` whose caches must be copied before the next
    /// step. Returns whether the search is finished.
    ///
    /// # Errors
    /// When a beam got no tokens.
    pub(super) fn advance(
        &mut self,
        tokens: &[TopTokens],
        context: &RowContext<'_>,
        copies: &mut Vec<(usize, usize)>,
    ) -> Result<bool, RuntimeError> {
        self.read += 1;
        if self.read < context.prefix.len() {
            return Ok(false);
        }
        let successors = self.successors(tokens)?;
        let length = self.beams[0].ids.len() + 1;
        let last = length == context.settings.max_tokens;
        let best_of_all = successors[0].logprob;
        let next = self.select(successors, context, last);
        self.place(next, copies);
        let has_scorer = context.rules.has_beam_scorer();
        let best = if has_scorer { Some(best_of_all) } else { self.beams.first().map(|beam| beam.logprob) };
        let is_over = best.is_none_or(|best| self.is_over(best, length, context));
        if last && !is_over && has_scorer {
            for beam in std::mem::take(&mut self.beams) {
                self.add(beam.ids, beam.logprob);
            }
        }
        Ok(last || is_over || self.beams.is_empty())
    }

    /// Returns the `2 * beams` best successors of all beams, best first: enough remain if half of them end.
    fn successors(&self, row_tokens: &[TopTokens]) -> Result<Vec<Successor>, RuntimeError> {
        let count = 2 * self.settings.beams;
        let mut all = Vec::with_capacity(count * self.beams.len());
        for (index, beam) in self.beams.iter().enumerate() {
            let tokens = row_tokens.get(beam.row).filter(|t| !t.is_empty()).ok_or_else(non_finite_logits)?;
            all.extend(tokens.iter().map(|t| Successor {
                beam: index,
                id: t.id,
                logprob: beam.logprob + f64::from(t.logprob),
            }));
        }
        // Stable: ties go to the better beam, then to the lower id.
        all.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
        all.truncate(count);
        Ok(all)
    }

    /// Splits the best successors into those that end, which become hypotheses, and the next beams. `last` is whether they reach the
    /// maximal length.
    fn select(&mut self, successors: Vec<Successor>, context: &RowContext<'_>, last: bool) -> Vec<Successor> {
        let mut next = Vec::with_capacity(self.settings.beams);
        let all_end = last && !context.rules.has_beam_scorer();
        for (rank, successor) in successors.into_iter().enumerate() {
            if successor.id as i64 == context.special.end || all_end {
                // As in the reference, an end that is not among the best beams is dropped.
                if rank < self.settings.beams {
                    let mut ids = self.beams[successor.beam].ids.clone();
                    ids.push(successor.id as i64);
                    self.add(ids, successor.logprob);
                }
            } else if next.len() < self.settings.beams {
                next.push(successor);
            }
        }
        next
    }

    /// Makes the given successors the new beams. The first successor of a beam stays in its row; others take free rows.
    fn place(&mut self, next: Vec<Successor>, copies: &mut Vec<(usize, usize)>) {
        let mut taken = vec![false; self.settings.beams];
        let mut rows: Vec<Option<usize>> = Vec::with_capacity(next.len());
        for successor in &next {
            let row = self.beams[successor.beam].row;
            rows.push((!std::mem::replace(&mut taken[row], true)).then_some(row));
        }
        let mut free = (0..taken.len()).filter(|row| !taken[*row]);
        let beams = next.into_iter().zip(rows).map(|(successor, row)| {
            let parent = &self.beams[successor.beam];
            let row = row.or_else(|| free.next().inspect(|row| copies.push((parent.row, *row))));
            let mut ids = parent.ids.clone();
            ids.push(successor.id as i64);
            Beam { ids, logprob: successor.logprob, row: row.unwrap_or_default() }
        });
        self.beams = beams.collect();
    }

    /// Adds a finished beam; the `beams` best are kept.
    fn add(&mut self, ids: Vec<i64>, logprob: f64) {
        let score = self.score(logprob, ids.len());
        let full = self.finished.len() == self.settings.beams;
        if full && self.finished.last().is_some_and(|worst| score <= worst.score) {
            return;
        }
        // Of equal scores the older one ranks lower, as in the reference.
        let place = self.finished.partition_point(|h| h.score > score);
        self.finished.insert(place, Hypothesis { ids, logprob, score });
        self.finished.truncate(self.settings.beams);
    }

    /// Returns `logprob / length^length_penalty`.
    fn score(&self, logprob: f64, length: usize) -> f64 {
        logprob / (length as f64).powf(f64::from(self.settings.length_penalty))
    }

    /// Returns whether no unfinished beam can improve the result, by the rule of `early_stopping`.
    fn is_over(&self, best: f64, length: usize, context: &RowContext<'_>) -> bool {
        let Some(worst) = self.finished.get(self.settings.beams - 1) else { return false };
        let attainable = match self.settings.early_stopping {
            EarlyStopping::Always => return true,
            EarlyStopping::Never if self.settings.length_penalty > 0.0 => {
                self.score(best, context.settings.max_tokens)
            }
            EarlyStopping::Heuristic | EarlyStopping::Never => self.score(best, length),
        };
        worst.score >= attainable
    }

    /// Returns the best `count` finished beams, best first.
    pub(super) fn finish(self, count: usize) -> Vec<GeneratedTokens> {
        let tokens = |h: Hypothesis| GeneratedTokens { ids: h.ids, logprob: h.logprob as f32 };
        self.finished.into_iter().take(count).map(tokens).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        caption::{CaptionSettings, Strategy, token_selection::NextToken},
        model::{GenerationRules, SpecialIds},
    };

    const END: i64 = 9;

    /// Searches with two beams; `steps` are the tokens with log-probabilities that every unfinished beam gets, by its rank.
    fn search(rules: GenerationRules, max_tokens: usize, steps: &[[&[(usize, f32)]; 2]]) -> Vec<Vec<i64>> {
        let settings = BeamSettings { beams: 2, ..BeamSettings::default() };
        let plain = CaptionSettings::greedy(max_tokens, 0, 1);
        let all = CaptionSettings { strategy: Strategy::Beam(settings), candidates: 2, ..plain };
        let special = SpecialIds { pad: 0, start: 1, end: END };
        let context = RowContext { prefix: &[1], special, rules, settings: &all };
        let mut search = BeamSearch::new(settings);
        for tokens in steps {
            let mut rows = vec![TopTokens::new(); 2];
            for (beam, tokens) in search.beams.iter().zip(tokens) {
                let token = |(id, logprob): &(usize, f32)| NextToken { id: *id, logprob: *logprob };
                rows[beam.row] = tokens.iter().map(token).collect();
            }
            if search.advance(&rows, &context, &mut Vec::new()).expect("tokens") {
                break;
            }
        }
        search.finish(2).into_iter().map(|tokens| tokens.ids).collect()
    }

    /// Two captions have ended with -2 in all, and what goes on is worse, but the last one to end is better: the search goes on by
    /// the rule of transformers 4 and is over by that of 5.
    #[test]
    fn a_beam_that_has_just_ended_keeps_the_search_going_only_in_version_4() {
        let steps: [[&[(usize, f32)]; 2]; 3] = [
            [&[(9, -2.0), (2, -2.1), (3, -3.0), (4, -9.0)], &[]],
            // The end is -2.2 in all, -1.1 per token; the best that goes on has -5.1, -2.55 per token.
            [&[(9, -0.1), (5, -3.0), (6, -8.0), (7, -9.0)], &[(5, -4.0), (6, -5.0), (7, -8.0), (8, -9.0)]],
            [&[(9, -0.1), (5, -8.0), (6, -8.5), (7, -9.0)], &[(9, -6.0), (5, -7.0), (6, -8.0), (7, -9.0)]],
        ];
        let four = search(GenerationRules::Transformers4, 9, &steps);
        let five = search(GenerationRules::Transformers, 9, &steps);
        assert_eq!(five, [vec![2, 9], vec![9]]);
        // -5.2 / 3 is better than -2 / 1.
        assert_eq!(four, [vec![2, 9], vec![2, 5, 9]]);
    }

    /// At the maximal length the second-best continuation ends, the third does not.
    #[test]
    fn captions_at_the_maximal_length_differ_by_version() {
        let steps: [[&[(usize, f32)]; 2]; 2] = [
            [&[(2, -0.5), (3, -0.6), (4, -8.0), (5, -9.0)], &[]],
            [&[(4, -0.5), (9, -0.8), (5, -0.9), (6, -9.0)], &[(7, -5.0), (4, -6.0), (5, -7.0), (6, -9.0)]],
        ];
        assert_eq!(search(GenerationRules::Transformers, 2, &steps), [vec![2, 4], vec![2, 9]]);
        // Version 4 finishes both beams that go on, besides the one that ended, and keeps the best two of the three.
        assert_eq!(search(GenerationRules::Transformers4, 2, &steps), [vec![2, 4], vec![2, 9]]);
        let ends: [[&[(usize, f32)]; 2]; 2] = [
            [&[(2, -0.5), (3, -0.6), (4, -8.0), (5, -9.0)], &[]],
            // Three continuations before the first end: by version 5 it does not count, nor does the third.
            [&[(4, -0.5), (5, -0.6), (9, -0.9), (6, -9.0)], &[(7, -0.7), (4, -6.0), (5, -7.0), (6, -9.0)]],
        ];
        assert_eq!(search(GenerationRules::Transformers, 2, &ends), [vec![2, 4], vec![2, 5]]);
    }
}
