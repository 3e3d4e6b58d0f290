//! Words of a text and counts of their n-grams.

use std::collections::HashMap;

use unicode_segmentation::UnicodeSegmentation;

/// Longest n-gram that the metrics count.
pub const LONGEST: usize = 4;

/// Lower-case words (UAX #29) without punctuation. pycocoevalcap runs Stanford's PTB tokenizer for this, in Java; captions give
/// the same words but for contractions, which PTB takes apart.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    text.to_lowercase().unicode_words().map(str::to_owned).collect()
}

/// Counts of all n-grams of 1 to [`LONGEST`] words.
pub fn count(words: &[String]) -> HashMap<&[String], u32> {
    let mut counts = HashMap::new();
    for n in 1..=LONGEST.min(words.len()) {
        for gram in words.windows(n) {
            *counts.entry(gram).or_default() += 1;
        }
    }
    counts
}
