//! Words of a text and counts of their n-grams.

use std::collections::HashMap;

use unicode_segmentation::UnicodeSegmentation;

/// Number of words of the longest n-gram that the metrics count.
pub const MAX_NGRAM: usize = 4;

/// Returns the words of a text (UAX #29), in lower case, without punctuation.
///
/// pycocoevalcap runs Stanford's PTB tokenizer for this, in Java; on captions both give the same words but for contractions,
/// which PTB splits.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    text.to_lowercase().unicode_words().map(str::to_owned).collect()
}

/// Counts all n-grams of 1 to [`MAX_NGRAM`] words.
pub(crate) fn ngram_counts(words: &[String]) -> HashMap<&[String], u32> {
    let mut counts = HashMap::new();
    for n in 1..=MAX_NGRAM.min(words.len()) {
        for gram in words.windows(n) {
            *counts.entry(gram).or_default() += 1;
        }
    }
    counts
}
