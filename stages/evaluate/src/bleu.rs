//! BLEU (Papineni et al. 2002) over a corpus; the brevity penalty takes the reference whose length is closest.

use std::collections::HashMap;

use crate::{
    ngrams::{MAX_NGRAM, ngram_counts},
    pair::EvalPair,
};

/// pycocoevalcap's guards against division by zero.
const SMALL: f64 = 1e-9;
const TINY: f64 = 1e-15;

/// Computes BLEU-1 to BLEU-4 of all captions together, each in [0, 1]; 0 of no captions.
#[must_use]
pub fn bleu(pairs: &[EvalPair]) -> [f64; MAX_NGRAM] {
    let (mut correct, mut guessed) = ([0_u64; MAX_NGRAM], [0_u64; MAX_NGRAM]);
    let (mut length, mut reference_length) = (0, 0);
    for pair in pairs {
        let words = pair.caption().len();
        length += words;
        reference_length += closest_length(words, pair.references().iter().map(Vec::len));
        let mut max_counts: HashMap<&[String], u32> = HashMap::new();
        for (gram, n) in pair.references().iter().flat_map(|r| ngram_counts(r)) {
            let entry = max_counts.entry(gram).or_default();
            *entry = n.max(*entry);
        }
        for (gram, n) in ngram_counts(pair.caption()) {
            correct[gram.len() - 1] += u64::from(n.min(max_counts.get(gram).copied().unwrap_or(0)));
        }
        for (n, guessed) in guessed.iter_mut().enumerate() {
            *guessed += words.saturating_sub(n) as u64;
        }
    }
    let ratio = (length as f64 + TINY) / (reference_length as f64 + SMALL);
    let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|n| {
        product *= (correct[n] as f64 + TINY) / (guessed[n] as f64 + SMALL);
        product.powf(1.0 / (n + 1) as f64) * brevity
    })
}

/// Returns the reference length closest to `length`; of two equally close the shorter.
fn closest_length(length: usize, references: impl Iterator<Item = usize>) -> usize {
    references.min_by_key(|r| (r.abs_diff(length), *r)).unwrap_or(0)
}
