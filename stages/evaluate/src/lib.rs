//! Measures of captions: against reference captions ([`cider_d`], [`bleu`], [`rouge_l`]), against the images ([`recall`]), among
//! themselves ([`distinct`], [`mean_words`]), and of a score that separates two classes ([`roc_auc`]).
//!
//! Stands behind the captioner, beside writing: it reads captions and changes none. Pure arithmetic on words and features; no
//! model, no I/O, no threads. Given the same words, the caption metrics are those of pycocoevalcap 1.2 to within 1e-9.
//!
//! ```
//! use recaption_evaluate::{EvalPair, bleu, cider_d, rouge_l};
//!
//! let pairs = [
//!     EvalPair::new("a red star", &["a red star", "a star"]).expect("references"),
//!     EvalPair::new("a brown dog", &["a blue ring"]).expect("references"),
//! ];
//! assert_eq!(rouge_l(&pairs)[0], 1.0);
//! assert!(cider_d(&pairs)[0] > cider_d(&pairs)[1]);
//! assert!((bleu(&pairs)[0] - 4.0 / 6.0).abs() < 1e-6, "4 of 6 words");
//! ```

#![forbid(unsafe_code)]

mod auc;
mod bleu;
mod cider;
mod distinct;
mod ngrams;
mod pair;
mod retrieval;
mod rouge;
#[cfg(test)]
mod tests;

pub use self::{
    auc::roc_auc,
    bleu::bleu,
    cider::cider_d,
    distinct::{distinct, mean_words},
    ngrams::{MAX_NGRAM, words},
    pair::EvalPair,
    retrieval::{RANKS, Recall, recall},
    rouge::rouge_l,
};

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
