//! What a row requests of its logits, and what it gets.

use crate::{
    caption::settings::SampleSettings,
    model::{GenerationRules, SpecialIds},
    runtime::RuntimeError,
};

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::caption) struct NextToken {
    /// Its id.
    pub(in crate::caption) id: usize,
    /// The model's own log-probability of it over the whole vocabulary; natural logarithm.
    pub(in crate::caption) logprob: f32,
}

/// How next tokens are selected; the same for all rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::caption) enum TokenSelection {
    /// The given number of most probable tokens.
    Best(usize),
    /// One token, sampled.
    Sample(SampleSettings),
}

/// What all rows have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::caption) struct SelectionConfig {
    /// How tokens are selected.
    pub(in crate::caption) selection: TokenSelection,
    /// Id that is never selected, the padding's, if there is one.
    pub(in crate::caption) banned: Option<usize>,
    /// Id of the end token.
    pub(in crate::caption) end: usize,
}

impl SelectionConfig {
    /// Returns the configuration for a model's special ids and the rules that its captions follow.
    pub(in crate::caption) fn new(
        selection: TokenSelection,
        special: SpecialIds,
        rules: GenerationRules,
    ) -> Self {
        let banned = rules.bans_padding().then_some(special.pad as usize);
        Self { selection, banned, end: special.end as usize }
    }

    /// Returns whether tokens that stand in the text already are penalised.
    pub(super) fn has_repetition_penalty(&self) -> bool {
        matches!(self.selection, TokenSelection::Sample(settings) if settings.repetition_penalty != 1.0)
    }
}

/// A row's request for its next token.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::caption) struct LogitsRequest {
    /// Whether the end token is forbidden because the caption is too short.
    pub(in crate::caption) forbid_end: bool,
    /// Whether the end token is taken whatever the logits are, because the maximal length is reached.
    pub(in crate::caption) force_end: bool,
    /// The number in [0, 1) at which the distribution function is inverted.
    pub(in crate::caption) uniform: f64,
    /// Ids in the text so far, prompt and start token included; empty where nothing is penalised.
    pub(in crate::caption) previous_ids: Vec<i64>,
}

/// The next tokens of a row, best first; empty for a row without a request.
pub(in crate::caption) type TopTokens = Vec<NextToken>;

/// Returns the error for logits that are not finite, or that leave no token possible.
pub(in crate::caption) fn non_finite_logits() -> RuntimeError {
    RuntimeError::Input("the decoder's logits are not finite numbers".into())
}
