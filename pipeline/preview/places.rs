//! Spreads the places of a sample over all shards.

use recaption_input::{read::Places, shards::ShardRef};
use recaption_schemas::SplitMix64;

/// Returns the places in each shard, by its number: `samples` of them, one in each of as many equal parts of the input's bytes.
/// Shards that cannot be looked up have none.
pub(super) fn spread(shards: &[ShardRef], samples: u64, seed: u64) -> Vec<Places> {
    let weight = |shard: &ShardRef| if shard.lookup_error().is_some() { 0 } else { shard.bytes().max(1) };
    let fractions = fractions(&shards.iter().map(weight).collect::<Vec<_>>(), samples, seed);
    let places = |(fractions, number)| Places::new(fractions, SplitMix64::new(seed ^ number).next_u64());
    fractions.into_iter().zip(1..).map(places).collect()
}

/// Returns for each weight the places that fall into it, as fractions of it.
fn fractions(weights: &[u64], samples: u64, seed: u64) -> Vec<Vec<f64>> {
    let total: f64 = weights.iter().map(|weight| *weight as f64).sum();
    let mut random = SplitMix64::new(seed);
    let mut found = vec![Vec::new(); weights.len()];
    let (mut at, mut begin) = (0, 0.0);
    for number in 0..samples {
        let place = (number as f64 + random.next_fraction()) / samples as f64 * total;
        while let Some(weight) = weights.get(at).map(|weight| *weight as f64)
            && place >= begin + weight
        {
            (at, begin) = (at + 1, begin + weight);
        }
        // Rounding may lead behind the last shard.
        if let (Some(places), Some(weight)) = (found.get_mut(at), weights.get(at)) {
            places.push(((place - begin) / *weight as f64).clamp(0.0, 1.0 - f64::EPSILON));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread_by_bytes() {
        let found = fractions(&[100, 0, 300], 40, 1);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [10, 0, 30]);
        let all: Vec<f64> = found.into_iter().flatten().collect();
        assert!(all.iter().all(|fraction| (0.0..1.0).contains(fraction)), "{all:?}");
        assert_eq!(fractions(&[100, 0, 300], 40, 1).concat(), all, "the same seed, the same places");
        assert_ne!(fractions(&[100, 0, 300], 40, 2).concat(), all);
        assert!(fractions(&[], 5, 0).is_empty());
        assert_eq!(fractions(&[1; 1000], 5, 0).concat().len(), 5);
    }
}
