//! From the logits of a row to its next tokens.
//!
//! Rows send requests (`request`); they are fulfilled where the logits are: `host` with passes over a slice (`logits_row`,
//! `sampling`), `selector` with a graph (`graph`), so that logits never cross the bus. Both yield the same tokens, and
//! log-probabilities that differ in the last bits of sums.

mod graph;
mod host;
mod logits_row;
mod request;
mod sampling;
mod selector;
#[cfg(test)]
mod tests;

pub(super) use host::select_on_host;
#[cfg(test)]
pub(super) use request::NextToken;
pub(super) use request::{LogitsRequest, SelectionConfig, TokenSelection, TopTokens, non_finite_logits};
pub(super) use selector::Selector;
