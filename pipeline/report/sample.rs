//! A sample by seed that does not depend on the order in which rows arrive.

use std::collections::BTreeMap;

use recaption_schemas::SplitMix64;

/// Returns a 64-bit digest of texts: FNV-1a over each and its end, mixed once more.
pub(super) fn digest(seed: u64, texts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ SplitMix64::new(seed).next_u64();
    for text in texts {
        // 0xff ends a text: no UTF-8 has it.
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    SplitMix64::new(hash).next_u64()
}

/// The items with the smallest digests of seed, shard and key.
#[derive(Debug)]
pub(super) struct Sample<T> {
    seed: u64,
    capacity: usize,
    items: BTreeMap<(u64, String, String), T>,
}

impl<T> Sample<T> {
    /// Creates a sample of at most `capacity` items.
    pub(super) fn new(seed: u64, capacity: usize) -> Self {
        Self { seed, capacity, items: BTreeMap::new() }
    }

    /// Takes an item if it belongs to the sample so far.
    pub(super) fn offer(&mut self, shard: &str, key: &str, item: impl FnOnce() -> T) {
        let rank = digest(self.seed, &[shard, key]);
        let is_full = self.items.len() >= self.capacity;
        if is_full && self.items.last_key_value().is_none_or(|(last, _)| rank > last.0) {
            return;
        }
        self.items.insert((rank, shard.to_owned(), key.to_owned()), item());
        if self.items.len() > self.capacity {
            self.items.pop_last();
        }
    }

    /// Returns the items, in the order of their digests.
    pub(super) fn into_items(self) -> impl Iterator<Item = T> {
        self.items.into_values()
    }

    /// Returns the items, in the order of their digests.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_depends_on_seed_and_not_on_order() {
        let keys: Vec<String> = (0..1000).map(|n| format!("{n:05}")).collect();
        let sample = |seed: u64, keys: &mut dyn Iterator<Item = &String>| {
            let mut sample = Sample::new(seed, 20);
            keys.for_each(|key| sample.offer("shard", key, || key.clone()));
            sample.into_items().collect::<Vec<_>>()
        };
        let first = sample(1, &mut keys.iter());
        assert_eq!(first.len(), 20);
        assert_eq!(first, sample(1, &mut keys.iter().rev()));
        assert_ne!(first, sample(2, &mut keys.iter()));
        assert!(sample(1, &mut keys[..5].iter()).len() == 5);
        let mut none: Sample<()> = Sample::new(0, 0);
        none.offer("a", "b", || ());
        assert_eq!(none.into_items().count(), 0);
    }
}
