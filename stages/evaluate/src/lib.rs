//! How good captions are: against reference captions (CIDEr-D, BLEU, ROUGE-L), against the images (retrieval, similarity),
//! among themselves (distinct n-grams, length), and how well a score tells two kinds apart (area under the ROC curve).
//!
//! Stands behind `Scored`, beside writing: it reads captions and changes none. Pure arithmetic on words and embeddings; no
//! model, no I/O. The caption metrics are those of pycocoevalcap 1.2, to rounding, given the same words.

mod auc;
mod bleu;
mod cider;
mod distinct;
mod ngrams;
mod retrieval;
mod rouge;

pub use auc::roc_auc;
pub use bleu::bleu;
pub use cider::cider_d;
pub use distinct::{distinct, mean_words};
pub use ngrams::words;
pub use retrieval::{Recall, recall};
pub use rouge::rouge_l;

/// A caption and what it is measured against, as words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The generated caption.
    pub caption: Vec<String>,
    /// At least one reference.
    pub references: Vec<Vec<String>>,
}

impl Pair {
    /// Splits texts into words; `None` without references.
    #[must_use]
    pub fn new(caption: &str, references: &[&str]) -> Option<Self> {
        (!references.is_empty()).then(|| Self {
            caption: words(caption),
            references: references.iter().map(|r| words(r)).collect(),
        })
    }
}

#[cfg(test)]
mod tests;

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
