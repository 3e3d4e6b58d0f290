//! CIDEr-D (Vedantam et al. 2015): similarity of n-grams weighed by how rare they are among the references.

use std::collections::{HashMap, HashSet};

use super::{
    Pair,
    ngrams::{LONGEST, count},
};

/// Deviation of the Gaussian that punishes captions of another length, in bigrams.
const SIGMA: f64 = 6.0;
/// The scale that papers report.
const SCALE: f64 = 10.0;

type Grams<'a> = HashMap<&'a [String], f64>;

/// n-grams with their weights.
struct Weighted<'a> {
    weights: Grams<'a>,
    norms: [f64; LONGEST],
    /// Bigrams, which pycocoevalcap takes for the length.
    length: f64,
}

/// CIDEr-D of every caption, 0 to 10; the metric is their mean. Rarity is counted over the references given, so a caption's score
/// depends on the whole set.
#[must_use]
pub fn cider_d(pairs: &[Pair]) -> Vec<f64> {
    let mut documents: HashMap<&[String], f64> = HashMap::new();
    for pair in pairs {
        let grams: HashSet<&[String]> = pair.references.iter().flat_map(|r| count(r).into_keys()).collect();
        for gram in grams {
            *documents.entry(gram).or_default() += 1.0;
        }
    }
    let all = (pairs.len() as f64).ln();
    pairs
        .iter()
        .map(|pair| {
            let caption = weigh(&pair.caption, &documents, all);
            let sum: f64 =
                pair.references.iter().map(|r| similarity(&caption, &weigh(r, &documents, all))).sum();
            SCALE * sum / LONGEST as f64 / pair.references.len() as f64
        })
        .collect()
}

fn weigh<'a>(words: &'a [String], documents: &HashMap<&[String], f64>, all: f64) -> Weighted<'a> {
    let mut squares = [0.0; LONGEST];
    let mut length = 0.0;
    let mut weights = HashMap::new();
    for (gram, n) in count(words) {
        let seen = documents.get(gram).copied().unwrap_or(0.0).max(1.0).ln();
        let weight = f64::from(n) * (all - seen);
        squares[gram.len() - 1] += weight * weight;
        length += if gram.len() == 2 { f64::from(n) } else { 0.0 };
        weights.insert(gram, weight);
    }
    Weighted { weights, norms: squares.map(f64::sqrt), length }
}

/// Sum over n of the clipped cosines, each with the penalty on length.
fn similarity(caption: &Weighted<'_>, reference: &Weighted<'_>) -> f64 {
    let mut cosines = [0.0; LONGEST];
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
