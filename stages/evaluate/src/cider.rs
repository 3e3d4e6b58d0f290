//! CIDEr-D (Vedantam et al. 2015): cosine similarity of n-grams, weighted by how rare they are among the references (TF-IDF).

use std::collections::{HashMap, HashSet};

use crate::{
    ngrams::{MAX_NGRAM, ngram_counts},
    pair::EvalPair,
};

/// Standard deviation of the Gaussian length penalty, in bigrams.
const SIGMA: f64 = 6.0;
/// Factor that makes the range 0 to 10, as papers report it.
const SCALE: f64 = 10.0;

/// The TF-IDF vector of a text.
struct TfIdf<'a> {
    weights: HashMap<&'a [String], f64>,
    /// Euclidean norm per n-gram length.
    norms: [f64; MAX_NGRAM],
    /// Number of bigrams, which pycocoevalcap takes for the length.
    length: f64,
}

/// Computes CIDEr-D of every caption, 0 to 10; the metric is their mean. Document frequencies are those of the references given,
/// so a caption's score depends on the whole set.
#[must_use]
pub fn cider_d(pairs: &[EvalPair]) -> Vec<f64> {
    let mut frequencies: HashMap<&[String], f64> = HashMap::new();
    for pair in pairs {
        let grams: HashSet<&[String]> =
            pair.references().iter().flat_map(|r| ngram_counts(r).into_keys()).collect();
        for gram in grams {
            *frequencies.entry(gram).or_default() += 1.0;
        }
    }
    let log_count = (pairs.len() as f64).ln();
    pairs
        .iter()
        .map(|pair| {
            let caption = tf_idf(pair.caption(), &frequencies, log_count);
            let sum: f64 = pair
                .references()
                .iter()
                .map(|r| similarity(&caption, &tf_idf(r, &frequencies, log_count)))
                .sum();
            SCALE * sum / MAX_NGRAM as f64 / pair.references().len() as f64
        })
        .collect()
}

/// Computes a text's TF-IDF vector. `frequencies` are the numbers of images whose references hold an n-gram, `log_count` is the
/// logarithm of the number of images.
fn tf_idf<'a>(words: &'a [String], frequencies: &HashMap<&[String], f64>, log_count: f64) -> TfIdf<'a> {
    let mut squares = [0.0; MAX_NGRAM];
    let mut length = 0.0;
    let mut weights = HashMap::new();
    for (gram, n) in ngram_counts(words) {
        let log_frequency = frequencies.get(gram).copied().unwrap_or(0.0).max(1.0).ln();
        let weight = f64::from(n) * (log_count - log_frequency);
        squares[gram.len() - 1] += weight * weight;
        length += if gram.len() == 2 { f64::from(n) } else { 0.0 };
        weights.insert(gram, weight);
    }
    TfIdf { weights, norms: squares.map(f64::sqrt), length }
}

/// Computes the sum over n of the clipped cosines, times the length penalty.
fn similarity(caption: &TfIdf<'_>, reference: &TfIdf<'_>) -> f64 {
    let mut cosines = [0.0; MAX_NGRAM];
    for (gram, weight) in &caption.weights {
        let other = reference.weights.get(gram).copied().unwrap_or(0.0);
        cosines[gram.len() - 1] += weight.min(other) * other;
    }
    let delta = caption.length - reference.length;
    let penalty = (-delta * delta / (2.0 * SIGMA * SIGMA)).exp();
    let normalised = cosines
        .iter()
        .zip(caption.norms.iter().zip(&reference.norms))
        .map(|(cosine, (a, b))| if *a != 0.0 && *b != 0.0 { cosine / (a * b) } else { *cosine });
    normalised.sum::<f64>() * penalty
}
