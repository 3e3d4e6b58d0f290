//! Greedy and sampled captions of one image: independent rows, each a candidate, that take the next candidate when done.

use super::{
    Decoded, SampleSettings,
    captioner::{Context, RowInput},
    random::uniform,
    row::{NextToken, best_token},
    sample::draw,
    settings::Strategy,
};
use crate::runtime::RuntimeError;

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
    pub fn inputs(&self, prefix: &[i64], out: &mut Vec<Option<RowInput>>) {
        out.extend(self.rows.iter().map(|row| {
            row.as_ref().map(|row| {
                let id = prefix.get(row.read).or_else(|| row.ids.get(row.read - prefix.len()));
                RowInput { id: id.copied().unwrap_or_default(), position: row.read }
            })
        }));
    }

    /// Takes the logits `[rows, V]` of what was read; true when all candidates are done.
    pub fn advance(&mut self, logits: &mut [f32], context: &Context<'_>) -> Result<bool, RuntimeError> {
        let vocab = logits.len() / self.rows.len();
        for (place, logits) in self.rows.iter_mut().zip(logits.chunks_exact_mut(vocab)) {
            let Some(row) = place else { continue };
            row.read += 1;
            if row.read < context.prefix.len() {
                continue;
            }
            let token = choose(row, self.seed, logits, context)?;
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

/// The next token. At the last place the end token is written whatever the model says, as open_clip does.
fn choose(
    row: &Row,
    seed: u64,
    logits: &mut [f32],
    context: &Context<'_>,
) -> Result<NextToken, RuntimeError> {
    let (pad, end) = (context.special.pad as usize, context.special.end as usize);
    let generated = row.ids.len();
    let token = if generated + 1 == context.settings.max_tokens {
        let raw_end = logits[end];
        // In this order the difference of two large logits is exact, or nearly so.
        best_token(logits, &[])
            .map(|any| NextToken { id: end, logprob: (raw_end - logits[any.id]) + any.logprob })
    } else {
        let banned: &[usize] = if generated < context.settings.min_tokens { &[pad, end] } else { &[pad] };
        match context.settings.strategy {
            Strategy::Sample(settings) => sample(row, seed, logits, banned, &settings, context.prefix),
            Strategy::Greedy | Strategy::Beam(_) => best_token(logits, banned),
        }
    };
    // The last place takes the end token unseen; its logit may be -inf.
    token.filter(|t| t.logprob.is_finite()).ok_or_else(not_numbers)
}

fn sample(
    row: &Row,
    seed: u64,
    logits: &mut [f32],
    banned: &[usize],
    settings: &SampleSettings,
    prefix: &[i64],
) -> Option<NextToken> {
    let number = uniform(seed, row.candidate, row.ids.len());
    if settings.repetition_penalty == 1.0 {
        return draw(logits, &[], banned, settings, number);
    }
    let said: Vec<i64> = prefix.iter().chain(&row.ids).copied().collect();
    draw(logits, &said, banned, settings, number)
}

/// The error of logits that are no numbers, or leave no token possible.
pub fn not_numbers() -> RuntimeError {
    RuntimeError::Input("the decoder's logits are not finite numbers".into())
}
