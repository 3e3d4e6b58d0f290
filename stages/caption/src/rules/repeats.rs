//! Repeated n-grams of words.

use std::collections::HashMap;

/// Returns the n-gram of `n` words that occurs most often, with its number of occurrences, overlapping ones counted; of several
/// the first. Returns `None` when the text has fewer than `n` words.
pub(super) fn most_repeated(words: &[String], n: usize) -> Option<(usize, &[String])> {
    let mut times: HashMap<&[String], usize> = HashMap::new();
    let mut most: Option<(usize, &[String])> = None;
    for ngram in words.windows(n) {
        *times.entry(ngram).or_default() += 1;
    }
    // In the text's order: a hash map's order differs between runs, and so would a reject's detail.
    for ngram in words.windows(n) {
        let count = times[ngram];
        if most.is_none_or(|(best, _)| count > best) {
            most = Some((count, ngram));
        }
    }
    most
}
