//! Greedy and sampled captions of one image: independent rows, each a candidate, that take the next candidate when done.

use super::{
    Decoded,
    generator::Context,
    random::uniform,
    select::{Answer, Question, not_numbers},
    settings::Strategy,
};
use crate::runtime::{RowUpdate, RuntimeError};

/// One row of an image.
struct Row {
    candidate: usize,
    /// Tokens that the decoder has read: prefix, then generated ones.
    read: usize,
    ids: Vec<i64>,
    logprob: f64,
}

impl Row {
    fn new(candidate: usize) -> Self {
        Self { candidate, read: 0, ids: Vec::new(), logprob: 0.0 }
    }
}

/// The rows of one image.
pub struct Draws {
    seed: u64,
    rows: Vec<Option<Row>>,
    /// The next candidate to begin.
    next: usize,
    done: Vec<(usize, Decoded)>,
}

impl Draws {
    /// `rows` rows side by side, for `candidates` captions.
    pub fn new(seed: u64, rows: usize, candidates: usize) -> Self {
        Self {
            seed,
            rows: (0..rows).map(|i| (i < candidates).then(|| Row::new(i))).collect(),
            next: rows.min(candidates),
            done: Vec::with_capacity(candidates),
        }
    }

    /// What each row reads next.
    pub fn inputs(&self, prefix: &[i64], out: &mut Vec<Option<RowUpdate>>) {
        out.extend(self.rows.iter().map(|row| {
            row.as_ref().map(|row| {
                let id = prefix.get(row.read).or_else(|| row.ids.get(row.read - prefix.len()));
                RowUpdate { id: id.copied().unwrap_or_default(), position: row.read }
            })
        }));
    }

    /// What each row asks after it has read that; nothing within the prefix.
    pub fn questions(&self, context: &Context<'_>, out: &mut Vec<Option<Question>>) {
        out.extend(self.rows.iter().map(|row| {
            let row = row.as_ref().filter(|row| row.read + 1 >= context.prefix.len())?;
            Some(self.question(row, context))
        }));
    }

    fn question(&self, row: &Row, context: &Context<'_>) -> Question {
        let generated = row.ids.len();
        let mut question = Question {
            forbid_end: generated < context.settings.min_tokens,
            // At the last place the end token is written whatever the model says, as open_clip does.
            force_end: generated + 1 == context.settings.max_tokens,
            ..Question::default()
        };
        if let Strategy::Sample(settings) = context.settings.strategy {
            question.uniform = uniform(self.seed, row.candidate, generated);
            if settings.repetition_penalty != 1.0 {
                question.said = context.prefix.iter().chain(&row.ids).copied().collect();
            }
        }
        question
    }

    /// Takes the answers of all rows to [`Draws::questions`]; true when all candidates are done.
    pub fn advance(&mut self, answers: &[Answer], context: &Context<'_>) -> Result<bool, RuntimeError> {
        for (place, answer) in self.rows.iter_mut().zip(answers) {
            let Some(row) = place else { continue };
            row.read += 1;
            if row.read < context.prefix.len() {
                continue;
            }
            let token = answer.first().ok_or_else(not_numbers)?;
            row.ids.push(token.id as i64);
            row.logprob += f64::from(token.logprob);
            if token.id as i64 == context.special.end {
                let ids = std::mem::take(&mut row.ids);
                self.done.push((row.candidate, Decoded { ids, logprob: row.logprob as f32 }));
                *place = (self.next < context.settings.candidates).then(|| Row::new(self.next));
                self.next += 1;
            }
        }
        Ok(self.rows.iter().all(Option::is_none))
    }

    /// The captions, in the order of their candidate numbers.
    pub fn finish(mut self) -> Vec<Decoded> {
        self.done.sort_by_key(|(candidate, _)| *candidate);
        self.done.into_iter().map(|(_, decoded)| decoded).collect()
    }
}
