//! How captions are scored, and which of them become rows: the keys of `[score]`, `[filter]` and `[rules]`.

use std::sync::Arc;

use recaption_caption::{
    filter::Filter,
    rules::{RuleSettings, TextRules},
};
use recaption_config::ConfigError;

use super::{
    Layers,
    sections::{FilterSection, RulesSection, ScoreSection},
};

/// How captions are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreConfig {
    /// Candidates of an image that a scorer with a matching head matches with it; 0 for none.
    pub itm_top_k: usize,
    /// Whether that was set, and is not the default.
    pub is_itm_top_k_set: bool,
    /// Whether such a scorer matches the original caption too.
    pub match_original: bool,
}

impl ScoreConfig {
    /// Takes the section's settings.
    ///
    /// # Errors
    /// Original captions are to be matched, and nothing else.
    pub(super) fn build(section: &ScoreSection, layers: &Layers) -> Result<Self, ConfigError> {
        let ScoreSection { itm_top_k, match_original } = *section;
        if match_original && itm_top_k == 0 {
            let what = "`score.match_original` needs a scorer that matches: leave out `score.itm_top_k` = 0";
            return Err(layers.error("score.match_original", what));
        }
        Ok(Self { itm_top_k, is_itm_top_k_set: layers.is_set("score.itm_top_k"), match_original })
    }
}

/// Validates thresholds and rules.
///
/// # Errors
/// A threshold of the matching probability where nothing is matched, or rules that contradict each other.
pub(super) fn build_filter(
    section: &FilterSection,
    score: &ScoreSection,
    rules: RulesSection,
    layers: &Layers,
) -> Result<Filter, ConfigError> {
    if section.min_itm.is_some() && score.itm_top_k == 0 {
        let what = "`filter.min_itm` needs captions that are matched: leave out `score.itm_top_k` = 0";
        return Err(layers.error("filter.min_itm", what));
    }
    Ok(Filter {
        min_similarity: section.min_similarity.map(|n| n as f32),
        min_itm: section.min_itm.map(|n| n as f32),
        rules: Arc::new(text_rules(rules, layers)?),
    })
}

fn text_rules(section: RulesSection, layers: &Layers) -> Result<TextRules, ConfigError> {
    let settings = RuleSettings {
        min_words: section.min_words,
        max_words: section.max_words,
        min_chars: section.min_chars,
        max_chars: section.max_chars,
        max_repeats: section.max_repeats,
        ngram: section.ngram,
        banned_words: section.banned_words.0,
        junk: section.junk,
        duplicates: section.duplicates,
    };
    TextRules::new(settings).map_err(|e| layers.error(e.key, e.what))
}
