//! What all rows of a generator have in common.

use super::settings::CaptionSettings;
use crate::model::{GenerationRules, SpecialIds};

/// Prefix, special ids and settings, shared by all rows of all images.
pub(super) struct RowContext<'a> {
    /// Start token and prompt.
    pub(super) prefix: &'a [i64],
    /// The model's special ids.
    pub(super) special: SpecialIds,
    /// Whose generation the captions follow.
    pub(super) rules: GenerationRules,
    /// Settings of the generation.
    pub(super) settings: &'a CaptionSettings,
}
