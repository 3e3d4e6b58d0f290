//! How well a score separates two classes.

/// Computes the area under the ROC curve, in [0, 1]: the probability that a positive's score is above a negative's, ties counting
/// half (Mann and Whitney's U over the number of pairs). 0.5 is chance, 1 separates the classes entirely. Returns `None` when a
/// class is empty.
#[must_use]
pub fn roc_auc(positives: &[f32], negatives: &[f32]) -> Option<f64> {
    if positives.is_empty() || negatives.is_empty() {
        return None;
    }
    let labelled = |scores: &[f32], positive: bool| scores.iter().map(|s| (*s, positive)).collect::<Vec<_>>();
    let mut all = labelled(positives, true);
    all.extend(labelled(negatives, false));
    all.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
    // Twice U is an integer: nothing is rounded before the division.
    let (mut twice_won, mut below) = (0_u128, 0_u128);
    for tied in all.chunk_by(|(a, _), (b, _)| a == b) {
        let up = tied.iter().filter(|(_, positive)| *positive).count() as u128;
        let down = tied.len() as u128 - up;
        twice_won += up * (2 * below + down);
        below += down;
    }
    Some(twice_won as f64 / (2.0 * positives.len() as f64 * negatives.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::roc_auc;

    #[test]
    fn auc_equals_known_values() {
        assert_eq!(roc_auc(&[0.3, 0.4], &[0.1, 0.2, -0.5]), Some(1.0));
        assert_eq!(roc_auc(&[0.1, 0.2], &[0.3]), Some(0.0));
        // scikit-learn's example: roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]).
        assert_eq!(roc_auc(&[0.35, 0.8], &[0.1, 0.4]), Some(0.75));
        // Ties: of six pairs one is won and two are even.
        assert_eq!(roc_auc(&[0.5, 0.2], &[0.5, 0.2, 0.7]), Some((1.0 + 0.5 + 0.5) / 6.0));
        assert_eq!(roc_auc(&[0.5; 7], &[0.5; 3]), Some(0.5));
        assert_eq!(roc_auc(&[0.0], &[-0.0]), Some(0.5));
    }

    #[test]
    fn auc_is_the_share_of_ordered_pairs() {
        let score = |n: u32| ((n * 7919) % 23) as f32 / 23.0;
        let positives: Vec<f32> = (0..40).map(score).collect();
        let negatives: Vec<f32> = (0..31).map(|n| score(n + 100) - 0.1).collect();
        let pairs = positives.iter().flat_map(|p| negatives.iter().map(move |n| (p, n)));
        let won: f64 = pairs.map(|(p, n)| if p > n { 1.0 } else { f64::from(p == n) / 2.0 }).sum();
        assert_eq!(roc_auc(&positives, &negatives), Some(won / (40.0 * 31.0)));
    }

    #[test]
    fn auc_of_one_class_is_none() {
        assert_eq!(roc_auc(&[], &[0.1]), None);
        assert_eq!(roc_auc(&[0.1], &[]), None);
    }
}
