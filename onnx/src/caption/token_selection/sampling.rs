//! Samples a token from a row of logits, warped in the order of Hugging Face's transformers: repetition penalty, minimum
//! length (the caller's `banned`), temperature, top-k, top-p.
//!
//! Sampling inverts the distribution function, tokens in the order of their ids, at a given number in [0, 1), so that the
//! token is a function of the row and that number. Only tokens that survive the warping are sorted.

use super::{
    logits_row::{exp, log_sum_exp, maximum, top},
    request::NextToken,
};
use crate::caption::settings::SampleSettings;

/// Largest k for which the best tokens are kept in order during the search; more are selected and then sorted.
const SMALL_K: usize = 256;
/// Values per block of the two-level inversion.
const BLOCK: usize = 256;
/// Buckets per unit of logit in the histogram that finds how far down top-p reaches.
const BUCKETS_PER_UNIT: f32 = 4.0;
/// Buckets; the last one holds everything further down.
const BUCKETS: usize = 256;

/// Samples a token. `logits` is `[V]` and overwritten; `previous_ids` are the ids in the text so far, prompt and start
/// token included; `banned` ids are impossible; `uniform` is in [0, 1). The log-probability is the model's own, before any
/// warping. Returns `None` when no token is possible or any logit is NaN or +inf.
pub(super) fn sample(
    logits: &mut [f32],
    previous_ids: &[i64],
    banned: &[usize],
    settings: &SampleSettings,
    uniform: f64,
) -> Option<NextToken> {
    let log_sum = log_sum_exp(logits)?;
    let raw = penalise(logits, previous_ids, settings.repetition_penalty);
    for id in banned {
        if let Some(logit) = logits.get_mut(*id) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let max = maximum(logits);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let warped = Warped { logits, max, inverse: 1.0 / settings.temperature };
    let share = f64::from(settings.top_p);
    let id = match (settings.top_k, settings.top_p < 1.0) {
        (0, false) => warped.sample(uniform),
        (0, true) => {
            let (least, total) = warped.depth_of(share);
            sample_from(warped.cut(warped.above(least), share * total), uniform)
        }
        (k, _) => {
            let kept = warped.top_k(k);
            let total: f64 = kept.iter().map(|(_, w)| w).sum();
            sample_from(warped.cut(kept, share * total), uniform)
        }
    }?;
    let logit = raw.iter().find(|(i, _)| *i == id).map_or(warped.logits[id], |(_, logit)| *logit);
    Some(NextToken { id, logprob: (f64::from(logit) - log_sum) as f32 })
}

/// Applies the penalty once to every distinct previous id; returns those ids with their original logits.
fn penalise(logits: &mut [f32], previous_ids: &[i64], penalty: f32) -> Vec<(usize, f32)> {
    let mut raw: Vec<(usize, f32)> = Vec::new();
    if penalty == 1.0 {
        return raw;
    }
    for id in previous_ids {
        let Some(id) = usize::try_from(*id).ok().filter(|id| *id < logits.len()) else { continue };
        if raw.iter().any(|(i, _)| *i == id) {
            continue;
        }
        raw.push((id, logits[id]));
        logits[id] = if logits[id] < 0.0 { logits[id] * penalty } else { logits[id] / penalty };
    }
    raw
}

/// A row with its temperature. The weight of a token is `exp((logit - max) / temperature)`, not normalised.
struct Warped<'a> {
    logits: &'a [f32],
    max: f32,
    inverse: f32,
}

impl Warped<'_> {
    /// Returns the weight of a logit. `exp` does not go below its value at -87, so smaller exponents are set to zero.
    fn weight(&self, logit: f32) -> f32 {
        let x = (logit - self.max) * self.inverse;
        if x > -87.0 { exp(x) } else { 0.0 }
    }

    /// Returns the k best tokens and all ties with the last of them, as [`Warped::above`].
    fn top_k(&self, k: usize) -> Vec<(usize, f64)> {
        let least = if k >= self.logits.len() {
            f32::NEG_INFINITY
        } else if k <= SMALL_K {
            top(self.logits, k).last().map_or(f32::NEG_INFINITY, |(_, v)| *v)
        } else {
            let mut values = self.logits.to_vec();
            *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        };
        self.above(least)
    }

    /// Returns all possible tokens of at least that logit and their weights, best first, ties in the order of ids.
    fn above(&self, least: f32) -> Vec<(usize, f64)> {
        let mut kept: Vec<(usize, f32)> = Vec::new();
        for (block, values) in self.logits.chunks(BLOCK).enumerate() {
            if maximum(values) < least {
                continue;
            }
            let possible = values.iter().enumerate().filter(|(_, v)| **v >= least && **v > f32::NEG_INFINITY);
            kept.extend(possible.map(|(at, v)| (block * BLOCK + at, *v)));
        }
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        kept.into_iter().map(|(id, logit)| (id, f64::from(self.weight(logit)))).collect()
    }

    /// Returns a logit above which at least `share` of the total weight lies, and the total weight.
    fn depth_of(&self, share: f64) -> (f32, f64) {
        let mut mass = [0.0_f64; BUCKETS];
        for logit in self.logits {
            let x = (self.max - logit) * self.inverse;
            mass[((x * BUCKETS_PER_UNIT) as usize).min(BUCKETS - 1)] += f64::from(self.weight(*logit));
        }
        let total = mass.iter().sum::<f64>();
        let mut sum = 0.0;
        for (bucket, part) in mass[..BUCKETS - 1].iter().enumerate() {
            sum += part;
            if sum >= share * total {
                // Two buckets further than the start of this one: its end, and one for rounding.
                return (self.max - (bucket + 2) as f32 / BUCKETS_PER_UNIT / self.inverse, total);
            }
        }
        (f32::NEG_INFINITY, total)
    }

    /// Applies top-p: keeps a token while those before it weigh less than `share`, and always the first.
    fn cut(&self, mut kept: Vec<(usize, f64)>, share: f64) -> Vec<(usize, f64)> {
        let mut before = 0.0;
        let is_kept = |(_, weight): &&(usize, f64)| {
            let kept = before < share;
            before += weight;
            kept
        };
        let count = kept.iter().take_while(is_kept).count();
        kept.truncate(count.max(1));
        kept
    }

    /// Samples from all tokens, in the order of ids.
    fn sample(&self, uniform: f64) -> Option<usize> {
        let weigh = |values: &[f32]| values.iter().map(|v| f64::from(self.weight(*v))).sum::<f64>();
        let blocks: Vec<f64> = self.logits.chunks(BLOCK).map(weigh).collect();
        let (block, rest) = invert(blocks.iter().copied(), uniform * blocks.iter().sum::<f64>())?;
        let values = self.logits[block * BLOCK..].iter().take(BLOCK).map(|v| f64::from(self.weight(*v)));
        invert(values, rest).map(|(at, _)| block * BLOCK + at)
    }
}

/// Samples from weighted tokens, in the order of ids.
fn sample_from(mut kept: Vec<(usize, f64)>, uniform: f64) -> Option<usize> {
    kept.sort_unstable_by_key(|(id, _)| *id);
    let total: f64 = kept.iter().map(|(_, w)| w).sum();
    invert(kept.iter().map(|(_, w)| *w), uniform * total).map(|(at, _)| kept[at].0)
}

/// Returns the first index at which the running sum of weights exceeds `target`, and the rest of `target` there. If rounding
/// carries `target` past the end, returns the last index with a weight.
fn invert(weights: impl Iterator<Item = f64>, mut target: f64) -> Option<(usize, f64)> {
    let mut last = None;
    for (at, weight) in weights.enumerate().filter(|(_, w)| *w > 0.0) {
        if target < weight {
            return Some((at, target));
        }
        target -= weight;
        last = Some((at, weight));
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: usize = 20_000;
    const VOCABULARY: usize = 600;

    /// Logits with a long tail and some ties.
    fn logits() -> Vec<f32> {
        (0..VOCABULARY)
            .map(|i| 6.0 - ((i * 263 % VOCABULARY) as f32).sqrt() * 0.7 - (i % 3) as f32 * 0.5)
            .collect()
    }

    /// Computes the warped distribution in f64 from transformers' definitions.
    fn expected(logits: &[f32], previous_ids: &[i64], banned: &[usize], s: &SampleSettings) -> Vec<f64> {
        let mut x: Vec<f64> = logits.iter().map(|v| f64::from(*v)).collect();
        let mut seen = previous_ids.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            let v = &mut x[id as usize];
            *v = if *v < 0.0 {
                *v * f64::from(s.repetition_penalty)
            } else {
                *v / f64::from(s.repetition_penalty)
            };
        }
        banned.iter().for_each(|id| x[*id] = f64::NEG_INFINITY);
        x.iter_mut().for_each(|v| *v /= f64::from(s.temperature));
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
        if s.top_k > 0 && s.top_k < x.len() {
            let least = x[order[s.top_k - 1]];
            x.iter_mut().filter(|v| **v < least).for_each(|v| *v = f64::NEG_INFINITY);
        }
        let total: f64 = x.iter().map(|v| v.exp()).sum();
        let mut before = 0.0;
        for id in order {
            let p = x[id].exp() / total;
            if before >= f64::from(s.top_p) {
                x[id] = f64::NEG_INFINITY;
            }
            before += p;
        }
        let total: f64 = x.iter().map(|v| v.exp()).sum();
        x.iter().map(|v| v.exp() / total).collect()
    }

    /// Chi-squared of 20,000 samples against the warped softmax; none lies outside its support.
    fn check(name: &str, settings: SampleSettings) {
        let logits = logits();
        let (previous_ids, banned) = ([3, 3, 0, 17, 299], [0, 599]);
        let p = expected(&logits, &previous_ids, &banned, &settings);
        let mut counts = vec![0_u32; VOCABULARY];
        let log_sum = logits.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
        for i in 0..SAMPLES {
            let uniform = crate::caption::random::uniform(77, i, 0);
            let token =
                sample(&mut logits.clone(), &previous_ids, &banned, &settings, uniform).expect("a token");
            assert!(p[token.id] > 0.0, "{name}: {} cannot be sampled", token.id);
            assert!((f64::from(token.logprob) - (f64::from(logits[token.id]) - log_sum)).abs() < 1e-5);
            counts[token.id] += 1;
        }
        // Rare tokens are pooled, so that every cell expects at least 10.
        let (mut chi, mut cells, mut pooled) = (0.0, 0_usize, (0.0, 0.0));
        for (p, n) in p.iter().zip(&counts) {
            let expected = p * SAMPLES as f64;
            if expected >= 10.0 {
                chi += (f64::from(*n) - expected).powi(2) / expected;
                cells += 1;
            } else {
                pooled = (pooled.0 + expected, pooled.1 + f64::from(*n));
            }
        }
        if pooled.0 >= 10.0 {
            chi += (pooled.1 - pooled.0).powi(2) / pooled.0;
            cells += 1;
        }
        let freedom = (cells - 1) as f64;
        // Mean and deviation of chi-squared; four deviations are exceeded about once in 10,000 times.
        let bound = freedom + 4.0 * (2.0 * freedom).sqrt();
        println!("{name}: chi-squared {chi:.1} with {freedom} degrees of freedom, bound {bound:.1}");
        assert!(cells > 2 && chi < bound, "{name}: {chi} over {bound}");
    }

    #[test]
    fn samples_follow_the_warped_softmax() {
        let plain = SampleSettings::default();
        check("plain", plain);
        check("temperature 0.7", SampleSettings { temperature: 0.7, ..plain });
        check("temperature 2", SampleSettings { temperature: 2.0, ..plain });
        check("top-k 20", SampleSettings { top_k: 20, ..plain });
        check("top-k 400", SampleSettings { top_k: 400, ..plain });
        check("top-k of everything", SampleSettings { top_k: 10_000, ..plain });
        check("top-p 0.9", SampleSettings { top_p: 0.9, ..plain });
        check("top-p 0.3", SampleSettings { top_p: 0.3, ..plain });
        check("repetition penalty 1.5", SampleSettings { repetition_penalty: 1.5, ..plain });
        check("repetition penalty 0.5", SampleSettings { repetition_penalty: 0.5, ..plain });
        check("all", SampleSettings { repetition_penalty: 1.3, temperature: 1.4, top_k: 100, top_p: 0.8 });
    }

    #[test]
    fn extreme_settings_take_the_best_token() {
        let best = |s: SampleSettings, u| sample(&mut logits(), &[], &[], &s, u).expect("a token").id;
        let first = best(SampleSettings { top_k: 1, ..SampleSettings::default() }, 0.0);
        let cold = SampleSettings { temperature: 1e-6, ..SampleSettings::default() };
        let narrow = SampleSettings { top_p: 1e-9, ..SampleSettings::default() };
        for u in [0.0, 0.5, 1.0 - f64::EPSILON] {
            assert_eq!((best(cold, u), best(narrow, u)), (first, first));
        }
        for s in [SampleSettings::default(), narrow, cold, SampleSettings { top_k: 5, ..narrow }] {
            let one = sample(&mut [1.0, f32::NEG_INFINITY, 3.0], &[], &[2], &s, 1.0 - f64::EPSILON);
            assert_eq!(one.expect("one is left").id, 0);
            assert_eq!(sample(&mut [1.0, 2.0], &[], &[0, 1], &s, 0.5), None);
            assert_eq!(sample(&mut [1.0, f32::NAN], &[], &[], &s, 0.5), None);
        }
    }

    /// `cargo test --release -p recaption-onnx -- --ignored --nocapture speed_of_a_sample`
    #[test]
    #[ignore = "measures speed"]
    fn speed_of_a_sample() {
        let row: Vec<f32> =
            (0..49_408).map(|i| ((i * 7919 % 49_408) as f32 / 4000.0).powi(2) / -6.0).collect();
        let plain = SampleSettings::default();
        for (name, s) in [
            ("plain", plain),
            ("top-k 50", SampleSettings { top_k: 50, ..plain }),
            ("top-p 0.9", SampleSettings { top_p: 0.9, ..plain }),
        ] {
            let mut copy = row.clone();
            let began = std::time::Instant::now();
            for i in 0..1000 {
                let uniform = crate::caption::random::uniform(1, i, 0);
                std::hint::black_box(sample(&mut copy, &[], &[0], &s, uniform));
            }
            println!("{name}: {} ns a row", began.elapsed().as_nanos() / 1000);
        }
    }
}
