//! Greedy and sampled captions of one image: each row generates one candidate after another, independently of the others.

use super::{
    context::RowContext,
    generated::GeneratedTokens,
    random::uniform,
    settings::Strategy,
    token_selection::{LogitsRequest, TopTokens, non_finite_logits},
};
use crate::runtime::{RowUpdate, RuntimeError};

/// The candidate that a row generates.
#[derive(Debug)]
struct CandidateRow {
    candidate: usize,
    /// Tokens that the decoder has read: prefix, then generated ones.
    read: usize,
    ids: Vec<i64>,
    logprob: f64,
}

impl CandidateRow {
    fn new(candidate: usize) -> Self {
        Self { candidate, read: 0, ids: Vec::new(), logprob: 0.0 }
    }
}

/// The rows of one image.
#[derive(Debug)]
pub(super) struct IndependentRows {
    seed: u64,
    rows: Vec<Option<CandidateRow>>,
    /// Number of the next candidate to start.
    next: usize,
    finished: Vec<(usize, GeneratedTokens)>,
}

impl IndependentRows {
    /// Starts `rows` rows for `candidates` captions.
    pub(super) fn new(seed: u64, rows: usize, candidates: usize) -> Self {
        Self {
            seed,
            rows: (0..rows).map(|i| (i < candidates).then(|| CandidateRow::new(i))).collect(),
            next: rows.min(candidates),
            finished: Vec::with_capacity(candidates),
        }
    }

    /// Appends what each row reads next.
    pub(super) fn append_inputs(&self, prefix: &[i64], out: &mut Vec<Option<RowUpdate>>) {
        out.extend(self.rows.iter().map(|row| {
            row.as_ref().map(|row| {
                let id = prefix.get(row.read).or_else(|| row.ids.get(row.read - prefix.len()));
                RowUpdate { id: id.copied().unwrap_or_default(), position: row.read }
            })
        }));
    }

    /// Appends what each row requests after it has read that; nothing within the prefix.
    pub(super) fn append_requests(&self, context: &RowContext<'_>, out: &mut Vec<Option<LogitsRequest>>) {
        out.extend(self.rows.iter().map(|row| {
            let row = row.as_ref().filter(|row| row.read + 1 >= context.prefix.len())?;
            Some(self.request(row, context))
        }));
    }

    fn request(&self, row: &CandidateRow, context: &RowContext<'_>) -> LogitsRequest {
        let generated = row.ids.len();
        let mut request = LogitsRequest {
            forbid_end: generated < context.settings.min_tokens,
            force_end: context.rules.forces_end() && generated + 1 == context.settings.max_tokens,
            ..LogitsRequest::default()
        };
        if let Strategy::Sample(settings) = context.settings.strategy {
            request.uniform = uniform(self.seed, row.candidate, generated);
            if settings.repetition_penalty != 1.0 {
                request.previous_ids = context.prefix.iter().chain(&row.ids).copied().collect();
            }
        }
        request
    }

    /// Takes the tokens of all rows; returns whether all candidates are finished.
    ///
    /// # Errors
    /// When a row that requested a token got none.
    pub(super) fn advance(
        &mut self,
        tokens: &[TopTokens],
        context: &RowContext<'_>,
    ) -> Result<bool, RuntimeError> {
        for (place, tokens) in self.rows.iter_mut().zip(tokens) {
            let Some(row) = place else { continue };
            row.read += 1;
            if row.read < context.prefix.len() {
                continue;
            }
            let token = tokens.first().ok_or_else(non_finite_logits)?;
            row.ids.push(token.id as i64);
            row.logprob += f64::from(token.logprob);
            if token.id as i64 == context.special.end || row.ids.len() == context.settings.max_tokens {
                let ids = std::mem::take(&mut row.ids);
                self.finished.push((row.candidate, GeneratedTokens { ids, logprob: row.logprob as f32 }));
                *place = (self.next < context.settings.candidates).then(|| CandidateRow::new(self.next));
                self.next += 1;
            }
        }
        Ok(self.rows.iter().all(Option::is_none))
    }

    /// Returns the captions, in the order of their candidate numbers.
    pub(super) fn finish(mut self) -> Vec<GeneratedTokens> {
        self.finished.sort_by_key(|(candidate, _)| *candidate);
        self.finished.into_iter().map(|(_, tokens)| tokens).collect()
    }
}
