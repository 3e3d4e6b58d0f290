//! Beam search over one image, with the semantics of Hugging Face's BeamSearchScorer on log-probabilities.
//!
//! A beam lives in a row of the decoder; when beams are replaced, a row's cache is copied only where a beam has more than
//! one successor. Pure: the captioner does the copying.

use super::{
    Decoded,
    generator::Context,
    select::{Answer, Question, not_numbers},
    settings::{BeamSettings, EarlyStopping},
};
use crate::runtime::{RowUpdate, RuntimeError};

/// An unfinished beam.
#[derive(Clone, Debug)]
struct Beam {
    ids: Vec<i64>,
    logprob: f64,
    /// Its row in the decoder.
    row: usize,
}

/// A finished one.
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
pub struct BeamSearch {
    settings: BeamSettings,
    /// Tokens that the decoder has read in every row: prefix, then generated ones.
    read: usize,
    /// Best first.
    beams: Vec<Beam>,
    finished: Vec<Hypothesis>,
}

impl BeamSearch {
    /// One empty beam: the first step fills the others.
    pub fn new(settings: BeamSettings) -> Self {
        let first = Beam { ids: Vec::new(), logprob: 0.0, row: 0 };
        Self { settings, read: 0, beams: vec![first], finished: Vec::new() }
    }

    /// What each row reads next.
    pub fn inputs(&self, prefix: &[i64], out: &mut Vec<Option<RowUpdate>>) {
        let start = out.len();
        out.resize(start + self.settings.beams, None);
        for beam in &self.beams {
            let id = prefix.get(self.read).or_else(|| beam.ids.last()).copied().unwrap_or_default();
            out[start + beam.row] = Some(RowUpdate { id, position: self.read });
        }
    }

    /// What each row asks after it has read that: its best successors, nothing within the prefix.
    pub fn questions(&self, context: &Context<'_>, out: &mut Vec<Option<Question>>) {
        let start = out.len();
        out.resize(start + self.settings.beams, None);
        if self.read + 1 < context.prefix.len() {
            return;
        }
        for beam in &self.beams {
            let forbid_end = beam.ids.len() < context.settings.min_tokens;
            out[start + beam.row] = Some(Question { forbid_end, ..Question::default() });
        }
    }

    /// Takes the answers of all rows to [`BeamSearch::questions`]; appends to `copies` the rows `(from, to)` whose caches must be
    /// copied before the next step. True when the search is over.
    pub fn advance(
        &mut self,
        answers: &[Answer],
        context: &Context<'_>,
        copies: &mut Vec<(usize, usize)>,
    ) -> Result<bool, RuntimeError> {
        self.read += 1;
        if self.read < context.prefix.len() {
            return Ok(false);
        }
        let successors = self.successors(answers)?;
        let length = self.beams[0].ids.len() + 1;
        // As the reference: even a successor that ends counts as the best attainable.
        let best = successors[0].logprob;
        let chosen = self.select(successors, context, length);
        self.place(chosen, copies);
        let last = length == context.settings.max_tokens;
        let over = last || self.beams.is_empty() || self.is_over(best, length, context);
        if last && !self.is_over(best, length, context) {
            for beam in std::mem::take(&mut self.beams) {
                self.add(beam.ids, beam.logprob);
            }
        }
        Ok(over)
    }

    /// The `2 * beams` best successors of all beams, best first. So many that enough remain when half of them end.
    fn successors(&self, answers: &[Answer]) -> Result<Vec<Successor>, RuntimeError> {
        let count = 2 * self.settings.beams;
        let mut all = Vec::with_capacity(count * self.beams.len());
        for (index, beam) in self.beams.iter().enumerate() {
            let tokens = answers.get(beam.row).filter(|answer| !answer.is_empty()).ok_or_else(not_numbers)?;
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

    /// Splits the best successors into those that end, which become hypotheses, and the next beams. `length` counts the
    /// generated tokens of a successor.
    fn select(&mut self, successors: Vec<Successor>, context: &Context<'_>, length: usize) -> Vec<Successor> {
        let mut next = Vec::with_capacity(self.settings.beams);
        for (rank, successor) in successors.into_iter().enumerate() {
            if successor.id as i64 == context.special.end {
                // An end that is not among the best beams is forgotten, as the reference does.
                if rank < self.settings.beams {
                    let mut ids = self.beams[successor.beam].ids.clone();
                    ids.push(context.special.end);
                    debug_assert_eq!(ids.len(), length);
                    self.add(ids, successor.logprob);
                }
            } else if next.len() < self.settings.beams {
                next.push(successor);
            }
        }
        next
    }

    /// Makes the chosen successors the beams. The first successor of a beam stays in its row; others take rows that became
    /// free.
    fn place(&mut self, chosen: Vec<Successor>, copies: &mut Vec<(usize, usize)>) {
        let mut taken = vec![false; self.settings.beams];
        let mut rows: Vec<Option<usize>> = Vec::with_capacity(chosen.len());
        for successor in &chosen {
            let row = self.beams[successor.beam].row;
            rows.push((!std::mem::replace(&mut taken[row], true)).then_some(row));
        }
        let mut free = (0..taken.len()).filter(|row| !taken[*row]);
        let beams = chosen.into_iter().zip(rows).map(|(successor, row)| {
            let parent = &self.beams[successor.beam];
            let row = row.or_else(|| free.next().inspect(|row| copies.push((parent.row, *row))));
            let mut ids = parent.ids.clone();
            ids.push(successor.id as i64);
            Beam { ids, logprob: successor.logprob, row: row.unwrap_or_default() }
        });
        self.beams = beams.collect();
    }

    /// Keeps the `beams` best hypotheses.
    fn add(&mut self, ids: Vec<i64>, logprob: f64) {
        let score = self.score(logprob, ids.len());
        let full = self.finished.len() == self.settings.beams;
        if full && self.finished.last().is_some_and(|worst| score <= worst.score) {
            return;
        }
        // Of equal scores the older one is the worse, as the reference sorts them.
        let place = self.finished.partition_point(|h| h.score > score);
        self.finished.insert(place, Hypothesis { ids, logprob, score });
        self.finished.truncate(self.settings.beams);
    }

    fn score(&self, logprob: f64, length: usize) -> f64 {
        logprob / (length as f64).powf(f64::from(self.settings.length_penalty))
    }

    /// Whether no unfinished beam can improve the result, by the rule that is set.
    fn is_over(&self, best: f64, length: usize, context: &Context<'_>) -> bool {
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

    /// The best `count` hypotheses, best first.
    pub fn finish(self, count: usize) -> Vec<Decoded> {
        let decoded = |h: Hypothesis| Decoded { ids: h.ids, logprob: h.logprob as f32 };
        self.finished.into_iter().take(count).map(decoded).collect()
    }
}
