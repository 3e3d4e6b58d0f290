//! Variety and length of captions.

use std::collections::HashSet;

/// Computes distinct-n (Li et al. 2016): the share of different n-grams among all n-grams of a set of captions, in [0, 1]; 0 when
/// there are none.
///
/// # Panics
/// Panics if `n` is 0.
#[must_use]
pub fn distinct(captions: &[Vec<String>], n: usize) -> f64 {
    let all = captions.iter().map(|c| (c.len() + 1).saturating_sub(n)).sum::<usize>();
    let different: HashSet<&[String]> = captions.iter().flat_map(|c| c.windows(n)).collect();
    if all == 0 { 0.0 } else { different.len() as f64 / all as f64 }
}

/// Computes the mean number of words per caption; 0 of no captions.
#[must_use]
pub fn mean_words(captions: &[Vec<String>]) -> f64 {
    let words = captions.iter().map(Vec::len).sum::<usize>();
    if captions.is_empty() { 0.0 } else { words as f64 / captions.len() as f64 }
}
