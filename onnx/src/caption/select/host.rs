//! Answers on the host: a pass or two over a row, in Rust that the compiler vectorises. Fastest on CPUs.

use super::{
    super::{
        row::{best_token, best_tokens},
        sample::draw,
    },
    Answer, Choice, NextToken, Question, Rules, not_numbers,
};
use crate::runtime::RuntimeError;

/// Answers of all rows; `logits` is `[questions.len(), V]` and overwritten. Rows without a question get nothing.
///
/// # Errors
/// When a row that asks is not finite numbers.
pub fn answer_all(
    logits: &mut [f32],
    questions: &[Option<Question>],
    rules: &Rules,
) -> Result<Vec<Answer>, RuntimeError> {
    let vocab = logits.len() / questions.len().max(1);
    logits
        .chunks_exact_mut(vocab.max(1))
        .zip(questions)
        .map(|(row, question)| question.as_ref().map_or(Ok(Vec::new()), |q| answer(row, q, rules)))
        .collect()
}

/// The answer of one row `[V]`, which is overwritten.
///
/// # Errors
/// When it is not finite numbers.
pub fn answer(logits: &mut [f32], question: &Question, rules: &Rules) -> Result<Answer, RuntimeError> {
    let banned: &[usize] = if question.forbid_end { &[rules.pad, rules.end] } else { &[rules.pad] };
    let token = match rules.choice {
        _ if question.force_end => {
            let raw_end = logits[rules.end];
            // In this order the difference of two large logits is exact, or nearly so.
            best_token(logits, &[])
                .map(|any| NextToken { id: rules.end, logprob: (raw_end - logits[any.id]) + any.logprob })
        }
        Choice::Best(1) => best_token(logits, banned),
        Choice::Best(count) => return best_tokens(logits, banned, count).ok_or_else(not_numbers),
        Choice::Draw(settings) => draw(logits, &question.said, banned, &settings, question.uniform),
    };
    // The last place takes the end token unseen; its logit may be -inf.
    token.filter(|t| t.logprob.is_finite()).map(|token| vec![token]).ok_or_else(not_numbers)
}
