//! ROUGE-L (Lin 2004): the longest common subsequence of words.

use crate::pair::EvalPair;

/// Weight of recall against precision in the F-measure; pycocoevalcap's.
const BETA: f64 = 1.2;

/// Computes ROUGE-L of every caption, in [0, 1], from the best precision and the best recall over its references; the metric is
/// their mean.
#[must_use]
pub fn rouge_l(pairs: &[EvalPair]) -> Vec<f64> {
    pairs.iter().map(score).collect()
}

fn score(pair: &EvalPair) -> f64 {
    let share = |common: usize, of: usize| if of == 0 { 0.0 } else { common as f64 / of as f64 };
    let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
    for reference in pair.references() {
        let common = common_subsequence(pair.caption(), reference);
        precision = precision.max(share(common, pair.caption().len()));
        recall = recall.max(share(common, reference.len()));
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    let squared = BETA * BETA;
    (1.0 + squared) * precision * recall / (recall + squared * precision)
}

/// Computes the length of the longest common subsequence, keeping one row of the table.
fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}
