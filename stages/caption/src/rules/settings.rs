//! Text rules as they are configured.

/// Default number of words of an n-gram of `rules.max_repeats`: shorter ones recur in good captions ("a man and a woman and a
/// dog"), longer ones miss short loops.
pub const DEFAULT_NGRAM: usize = 3;

/// The rules as they were set; [`TextRules::new`](super::TextRules::new) validates them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSettings {
    /// Smallest number of words (`rules.min_words`).
    pub min_words: Option<usize>,
    /// Largest number of words (`rules.max_words`).
    pub max_words: Option<usize>,
    /// Smallest number of characters (`rules.min_chars`).
    pub min_chars: Option<usize>,
    /// Largest number of characters (`rules.max_chars`).
    pub max_chars: Option<usize>,
    /// Largest number of times that any n-gram of words may occur, overlapping ones counted, at least 1 (`rules.max_repeats`).
    pub max_repeats: Option<usize>,
    /// Number of words of an n-gram, at least 1 (`rules.ngram`); `None` is [`DEFAULT_NGRAM`].
    pub ngram: Option<usize>,
    /// Words and phrases that may not occur, compared as whole words in any case (`rules.banned_words`).
    pub banned_words: Vec<String>,
    /// Whether texts that are not language are rejected: file names, URLs, camera names, codes (`rules.junk`).
    pub junk: bool,
    /// Whether only the best of equal candidates may be chosen (`rules.duplicates`).
    pub duplicates: bool,
}

/// Rule settings that contradict each other or mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct RuleError {
    /// The key to change.
    pub key: &'static str,
    /// What is wrong with it and what to do.
    pub what: String,
}
