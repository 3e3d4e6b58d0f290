//! Token selection on the host: a pass or two over a row, in Rust that the compiler vectorises. Fastest on CPUs.

use super::{
    logits_row::{best_token, best_tokens},
    request::{LogitsRequest, NextToken, SelectionConfig, TokenSelection, TopTokens, non_finite_logits},
    sampling::sample,
};
use crate::runtime::RuntimeError;

/// Selects the tokens of all rows; `logits` is `[requests.len(), V]` and overwritten. Rows without a request get none.
///
/// # Errors
/// When a requested row is not finite.
pub(in crate::caption) fn select_on_host(
    logits: &mut [f32],
    requests: &[Option<LogitsRequest>],
    config: &SelectionConfig,
) -> Result<Vec<TopTokens>, RuntimeError> {
    let vocab = logits.len() / requests.len().max(1);
    logits
        .chunks_exact_mut(vocab.max(1))
        .zip(requests)
        .map(|(row, request)| request.as_ref().map_or(Ok(Vec::new()), |r| select_row(row, r, config)))
        .collect()
}

/// Selects the tokens of one row `[V]`, which is overwritten.
///
/// # Errors
/// When the row is not finite.
pub(super) fn select_row(
    logits: &mut [f32],
    request: &LogitsRequest,
    config: &SelectionConfig,
) -> Result<TopTokens, RuntimeError> {
    let banned: &[usize] = match (config.banned, request.forbid_end) {
        (Some(id), true) => &[id, config.end],
        (Some(id), false) => &[id],
        (None, true) => &[config.end],
        (None, false) => &[],
    };
    let token = match config.selection {
        _ if request.force_end => {
            let raw_end = logits[config.end];
            // In this order the difference of two large logits is exact, or nearly so.
            best_token(logits, &[])
                .map(|any| NextToken { id: config.end, logprob: (raw_end - logits[any.id]) + any.logprob })
        }
        TokenSelection::Best(1) => best_token(logits, banned),
        TokenSelection::Best(count) => {
            return best_tokens(logits, banned, count).ok_or_else(non_finite_logits);
        }
        TokenSelection::Sample(settings) => {
            sample(logits, &request.previous_ids, banned, &settings, request.uniform)
        }
    };
    // A forced end token may have a logit of -inf.
    token.filter(|t| t.logprob.is_finite()).map(|token| vec![token]).ok_or_else(non_finite_logits)
}
