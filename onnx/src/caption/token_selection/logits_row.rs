//! One row of logits on the host: its best token, its k best tokens and its log-sum-exp, in passes that vectorise.
//!
//! ONNX Runtime's ReduceLogSumExp and TopK cost more than this on the CPU, and the logits are in cache here.

use super::request::NextToken;

/// Values per chunk: independent sums, so that the compiler can use vector registers.
const LANES: usize = 16;
/// Values that are summed in f32 before they join an f64: few enough that rounding stays below one part in 10^6.
const BLOCK: usize = 64 * LANES;
/// Values whose maximum decides whether any of them is among the best.
const TOP_BLOCK: usize = 8 * LANES;

/// Returns the most probable token that is not in `banned`, and its log-probability under the unchanged distribution.
/// Ties go to the lower id, as in torch's argmax. `logits` is `[V]`; banned entries are overwritten.
/// Returns `None` when no token is left or any logit, banned ones included, is NaN or +inf.
pub(super) fn best_token(logits: &mut [f32], banned: &[usize]) -> Option<NextToken> {
    let log_sum = log_sum_exp(logits)?;
    for id in banned {
        if let Some(logit) = logits.get_mut(*id) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let best = maximum(logits);
    let id = first_position(logits, best)?;
    (best > f32::NEG_INFINITY).then_some(NextToken { id, logprob: (f64::from(best) - log_sum) as f32 })
}

/// Returns the `k` most probable tokens that are not in `banned`, best first, ties to the lower id, with their
/// log-probabilities under the unchanged distribution; fewer if fewer are possible. `logits` is `[V]`; banned entries are
/// overwritten. Returns `None` under the same conditions as [`best_token`].
pub(super) fn best_tokens(logits: &mut [f32], banned: &[usize], k: usize) -> Option<Vec<NextToken>> {
    let log_sum = log_sum_exp(logits)?;
    for id in banned {
        if let Some(logit) = logits.get_mut(*id) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let tokens: Vec<NextToken> = top(logits, k)
        .into_iter()
        .map(|(id, logit)| NextToken { id, logprob: (f64::from(logit) - log_sum) as f32 })
        .collect();
    (!tokens.is_empty()).then_some(tokens)
}

/// Returns the `k` largest values above -inf with their indices, largest first, ties to the lower index.
///
/// A block is searched only when its maximum, which vectorises, beats the k-th best so far: few do.
pub(super) fn top(x: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(k + 1);
    if k == 0 {
        return best;
    }
    let mut least = f32::NEG_INFINITY;
    for (block, values) in x.chunks(TOP_BLOCK).enumerate() {
        if maximum(values) <= least {
            continue;
        }
        for (at, value) in values.iter().enumerate().filter(|(_, v)| **v > f32::NEG_INFINITY) {
            if *value <= least {
                continue;
            }
            let place = best.partition_point(|(_, v)| *v >= *value);
            best.insert(place, (block * TOP_BLOCK + at, *value));
            best.truncate(k);
            if best.len() == k {
                least = best[k - 1].1;
            }
        }
    }
    best
}

/// Returns `ln(sum(exp(x)))`, or `None` when it is not finite.
pub(super) fn log_sum_exp(x: &[f32]) -> Option<f64> {
    let max = maximum(x);
    if !max.is_finite() {
        return None;
    }
    let mut total = 0.0_f64;
    for block in x.chunks(BLOCK) {
        let (chunks, rest) = block.as_chunks::<LANES>();
        let mut sums = [0.0_f32; LANES];
        for chunk in chunks {
            for (sum, v) in sums.iter_mut().zip(chunk) {
                *sum += exp(v - max);
            }
        }
        total += sums.iter().map(|s| f64::from(*s)).sum::<f64>();
        total += rest.iter().map(|v| f64::from(exp(v - max))).sum::<f64>();
    }
    let result = f64::from(max) + total.ln();
    result.is_finite().then_some(result)
}

/// Returns the first index of `value`. Whole blocks are compared without an early exit, which vectorises; value by value
/// it costs as much as all the exponentials.
fn first_position(x: &[f32], value: f32) -> Option<usize> {
    let block =
        x.chunks(BLOCK).position(|block| block.iter().fold(false, |found, v| found | (*v == value)))?;
    let start = block * BLOCK;
    x[start..].iter().position(|v| *v == value).map(|at| start + at)
}

/// Returns the largest value, -inf of none; NaN is ignored.
pub(super) fn maximum(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (best, v) in best.iter_mut().zip(chunk) {
            *best = if *v > *best { *v } else { *best };
        }
    }
    best.iter().chain(rest).copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Returns `e^x` for `x <= 0` with a relative error below 2e-7: Cephes' polynomial on `[-ln 2 / 2, ln 2 / 2]`, written without
/// branches or library calls so that it vectorises.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_3e-1;
    let value = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    value * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let want = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!((got - want).abs() <= 2e-7 * want, "exp({x}) = {got}, not {want}");
        }
    }

    #[test]
    fn logprob_is_the_log_softmax() {
        let mut logits: Vec<f32> = (0..1003).map(|i| ((i * 37) % 101) as f32 / 10.0 - 3.0).collect();
        let sum: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let first = logits.iter().position(|v| *v == max).expect("not empty");
        let token = best_token(&mut logits, &[]).expect("finite");
        assert_eq!(token.id, first);
        assert!((f64::from(token.logprob) - (f64::from(max) - sum.ln())).abs() < 1e-5);
    }

    #[test]
    fn banned_tokens_lose_but_stay_in_the_distribution() {
        let token = best_token(&mut [5.0, 1.0, 4.0], &[0]).expect("two left");
        assert_eq!(token.id, 2);
        let sum = (5f32.exp() + 1f32.exp() + 4f32.exp()).ln();
        assert!((token.logprob - (4.0 - sum)).abs() < 1e-6);
        assert!(best_token(&mut [1.0, 2.0], &[0, 1]).is_none());
    }

    /// Wherever the value is, in a vector's lane or in the rest, banned or not.
    #[test]
    fn non_finite_rows_have_no_next_token() {
        for len in [1, 2, 16, 17, 40] {
            for at in 0..len {
                for poison in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    let mut row: Vec<f32> = (0..len).map(|i| i as f32).collect();
                    row[at] = poison;
                    assert_eq!(best_token(&mut row.clone(), &[]), None, "{poison} at {at} of {len}");
                    assert_eq!(best_token(&mut row, &[at]), None, "{poison} banned at {at} of {len}");
                }
            }
            assert_eq!(best_token(&mut vec![f32::NAN; len], &[]), None);
            assert_eq!(best_token(&mut vec![f32::NEG_INFINITY; len], &[]), None);
        }
        assert_eq!(best_token(&mut [], &[]), None);
        // An impossible token is not an error.
        assert_eq!(best_token(&mut [f32::NEG_INFINITY, 2.0], &[]), Some(NextToken { id: 1, logprob: 0.0 }));
    }

    #[test]
    fn extreme_rows_stay_exact() {
        // Far from zero, far apart, and all alike: the sum must neither overflow nor lose its small parts.
        for offset in [-3e4_f32, 0.0, 3e4] {
            let mut row = vec![offset - 200.0; VOCABULARY];
            row[777] = offset;
            assert_eq!(best_token(&mut row, &[]), Some(NextToken { id: 777, logprob: 0.0 }));
            let token = best_token(&mut vec![offset; VOCABULARY], &[]).expect("finite");
            let want = -(VOCABULARY as f64).ln();
            assert_eq!(token.id, 0);
            assert!((f64::from(token.logprob) - want).abs() < 1e-6, "{offset}: {}", token.logprob);
        }
    }

    /// CLIP's vocabulary.
    const VOCABULARY: usize = 49_408;

    /// Pseudo-random logits, roughly normal around `offset`.
    fn row(seed: u64, spread: f32, offset: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
        };
        (0..VOCABULARY).map(|_| offset + spread * (uniform() + uniform() + uniform() + uniform())).collect()
    }

    fn exact(row: &[f32], id: usize) -> f64 {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|v| (f64::from(*v) - f64::from(max)).exp()).sum();
        f64::from(row[id]) - f64::from(max) - sum.ln()
    }

    #[test]
    fn logprobs_of_a_whole_vocabulary_are_accurate() {
        let mut worst = 0.0_f64;
        for (seed, spread, offset) in
            [(1, 1.0, 0.0), (2, 8.0, -5.0), (3, 30.0, 20.0), (4, 0.01, 0.0), (5, 60.0, 0.0)]
        {
            let row = row(seed, spread, offset);
            let token = best_token(&mut row.clone(), &[]).expect("finite");
            let error = (f64::from(token.logprob) - exact(&row, token.id)).abs();
            println!("spread {spread}: logprob {}, error {error:.2e}", token.logprob);
            worst = worst.max(error);
        }
        println!("largest error of a log-probability: {worst:.2e}");
        assert!(worst < 2e-6, "{worst}");
    }

    #[test]
    fn best_k_equal_a_full_sort() {
        for (seed, spread, k) in [(1, 8.0, 1), (2, 8.0, 12), (3, 0.0, 5), (4, 30.0, 200), (5, 1.0, 128)] {
            // Rounded, so that there are ties.
            let row: Vec<f32> = row(seed, spread, 0.0).iter().map(|v| (v * 16.0).round() / 16.0).collect();
            let mut sorted: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            assert_eq!(top(&row, k), sorted[..k], "seed {seed}");
        }
        assert_eq!(top(&[f32::NEG_INFINITY, 1.0], 3), [(1, 1.0)]);
        assert!(top(&[1.0], 0).is_empty() && top(&[], 4).is_empty());
        let tokens = best_tokens(&mut [0.0, 2.0, 1.0, 2.0], &[3], 8).expect("three left");
        assert_eq!(tokens.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 2, 0]);
        let sum = (1.0 + 2.0 * 2f64.exp() + 1f64.exp()).ln();
        assert!((f64::from(tokens[0].logprob) - (2.0 - sum)).abs() < 1e-6);
        assert!(best_tokens(&mut [f32::NAN, 1.0], &[], 1).is_none());
    }

    /// `cargo test --release -p recaption-onnx -- --ignored --nocapture speed_of_a_row`
    #[test]
    #[ignore = "measures speed"]
    fn speed_of_a_row() {
        const ROUNDS: u32 = 2000;
        let mut rows: Vec<Vec<f32>> = (0..8).map(|seed| row(seed, 8.0, 0.0)).collect();
        let began = std::time::Instant::now();
        for i in 0..ROUNDS {
            let row = &mut rows[i as usize % 8];
            std::hint::black_box(best_token(std::hint::black_box(row), &[0]));
        }
        println!("best: {} ns for a row of {VOCABULARY}", began.elapsed().as_nanos() / u128::from(ROUNDS));
        let began = std::time::Instant::now();
        for i in 0..ROUNDS {
            let row = &mut rows[i as usize % 8];
            std::hint::black_box(best_tokens(std::hint::black_box(row), &[0], 12));
        }
        println!("best 12: {} ns for a row of {VOCABULARY}", began.elapsed().as_nanos() / u128::from(ROUNDS));
    }
}
