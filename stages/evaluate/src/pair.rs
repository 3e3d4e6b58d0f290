//! What caption metrics compare.

use crate::ngrams::words;

/// A generated caption and its reference captions, as words. There is at least one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalPair {
    caption: Vec<String>,
    references: Vec<Vec<String>>,
}

impl EvalPair {
    /// Splits texts into words; returns `None` without references.
    #[must_use]
    pub fn new(caption: &str, references: &[&str]) -> Option<Self> {
        (!references.is_empty()).then(|| Self {
            caption: words(caption),
            references: references.iter().map(|r| words(r)).collect(),
        })
    }

    /// Returns the words of the generated caption; may be empty.
    #[must_use]
    pub fn caption(&self) -> &[String] {
        &self.caption
    }

    /// Returns the words of each reference, at least one.
    #[must_use]
    pub fn references(&self) -> &[Vec<String>] {
        &self.references
    }
}
