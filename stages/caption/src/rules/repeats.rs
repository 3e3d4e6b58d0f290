//! How often the most frequent n-gram of words occurs.

use std::collections::HashMap;

/// The n-gram of `n` words that occurs most often, overlapping occurrences counted, and how often; of several the first.
/// `None` when the text has fewer than `n` words.
pub(super) fn most_repeated(words: &[String], n: usize) -> Option<(usize, &[String])> {
    let mut times: HashMap<&[String], usize> = HashMap::new();
    let mut most: Option<(usize, &[String])> = None;
    for ngram in words.windows(n) {
        *times.entry(ngram).or_default() += 1;
    }
    // In the text's order: a map's own would make the detail depend on chance.
    for ngram in words.windows(n) {
        let count = times[ngram];
        if most.is_none_or(|(best, _)| count > best) {
            most = Some((count, ngram));
        }
    }
    most
}
