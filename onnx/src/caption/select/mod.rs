//! From the logits of a row to its next tokens.
//!
//! What the rows of an image are about ([`super::draws`], [`super::beam`]) poses questions; something answers them where the
//! logits are: [`host`] with passes over a slice, [`device`] with a graph, so that logits never cross the bus. Both answer
//! alike, but for the last bits of sums.

mod device;
mod graph;
mod host;

pub use device::Selector;
pub use host::answer_all;

use super::settings::SampleSettings;
use crate::{model::SpecialIds, runtime::RuntimeError};

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NextToken {
    /// Id.
    pub id: usize,
    /// The model's own log-probability of it, natural logarithm, over all tokens.
    pub logprob: f32,
}

/// How next tokens are chosen; the same for all rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The most probable ones, so many.
    Best(usize),
    /// One, drawn.
    Draw(SampleSettings),
}

/// What all rows have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How tokens are chosen.
    pub choice: Choice,
    /// Never chosen.
    pub pad: usize,
    /// Ends a caption.
    pub end: usize,
}

impl Rules {
    /// Rules of a model's special ids.
    pub fn new(choice: Choice, special: SpecialIds) -> Self {
        Self { choice, pad: special.pad as usize, end: special.end as usize }
    }

    /// Whether tokens that were said weigh less.
    fn penalises(&self) -> bool {
        matches!(self.choice, Choice::Draw(settings) if settings.repetition_penalty != 1.0)
    }
}

/// What a row asks about its next token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// The caption is too short to end.
    pub forbid_end: bool,
    /// It ends here, whatever the model says.
    pub force_end: bool,
    /// The number in [0, 1) at which a distribution function is inverted.
    pub uniform: f64,
    /// Ids in the text so far, prompt and start token included; empty where nothing is penalised.
    pub said: Vec<i64>,
}

/// The next tokens of a row, best first; at least one.
pub type Answer = Vec<NextToken>;

/// The error of logits that are no numbers, or leave no token possible.
pub fn not_numbers() -> RuntimeError {
    RuntimeError::Input("the decoder's logits are not finite numbers".into())
}

#[cfg(test)]
mod tests;
