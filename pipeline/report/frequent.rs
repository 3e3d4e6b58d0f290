//! Counts of the most frequent values in bounded memory.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// Counts values. Beyond `capacity` different ones, rare ones are forgotten, and all counts are then lower bounds (lossy
/// counting: Manku and Motwani, "Approximate frequency counts over data streams", 2002). What is forgotten depends on the order
/// of the values alone.
#[derive(Clone, Debug)]
pub(super) struct Frequent<K> {
    counts: HashMap<K, u64>,
    capacity: usize,
    /// Largest number by which a count may be too small.
    missed: u64,
}

impl<K: Hash + Eq + Ord + Clone> Frequent<K> {
    /// Creates a counter of about `capacity` values.
    pub(super) fn new(capacity: usize) -> Self {
        Self { counts: HashMap::new(), capacity: capacity.max(2), missed: 0 }
    }

    /// Adds `n` to a value's count.
    pub(super) fn add<Q>(&mut self, value: &Q, n: u64)
    where
        K: Borrow<Q> + for<'a> From<&'a Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(count) = self.counts.get_mut(value) {
            *count += n;
            return;
        }
        if self.counts.len() >= self.capacity {
            self.forget();
        }
        self.counts.insert(K::from(value), n);
    }

    /// Forgets at least half of the values, the rarest.
    fn forget(&mut self) {
        let mut all: Vec<u64> = self.counts.values().copied().collect();
        let middle = all.len() / 2;
        let (_, limit, _) = all.select_nth_unstable(middle);
        let limit = *limit;
        self.counts.retain(|_, count| *count > limit);
        self.missed += limit;
    }

    /// Returns whether no value was ever forgotten, so that every count is exact.
    pub(super) fn is_exact(&self) -> bool {
        self.missed == 0
    }

    /// Returns a value's count, 0 if it is not remembered.
    pub(super) fn count<Q>(&self, value: &Q) -> u64
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.counts.get(value).copied().unwrap_or(0)
    }

    /// Returns the `n` most frequent values, ties in the values' order.
    pub(super) fn top(&self, n: usize) -> Vec<(K, u64)> {
        let mut all: Vec<(&K, u64)> = self.counts.iter().map(|(value, count)| (value, *count)).collect();
        let order = |a: &(&K, u64), b: &(&K, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0));
        if all.len() > n && n > 0 {
            all.select_nth_unstable_by(n - 1, order);
            all.truncate(n);
        }
        all.sort_unstable_by(order);
        all.truncate(n);
        all.into_iter().map(|(value, count)| (value.clone(), count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_values_survive_a_flood_of_rare_ones() {
        let mut counter: Frequent<Box<str>> = Frequent::new(100);
        for n in 0..10_000 {
            counter.add(format!("rare {n}").as_str(), 1);
            counter.add(["often", "most"][usize::from(n % 3 > 0)], 1);
        }
        assert!(!counter.is_exact() && counter.counts.len() <= 100);
        let top = counter.top(2);
        assert_eq!((&*top[0].0, &*top[1].0), ("most", "often"));
        let counts = top.iter().map(|(_, count)| *count).zip([6666, 3334]);
        assert!(counts.into_iter().all(|(count, truth)| count <= truth && count + counter.missed >= truth));
    }

    #[test]
    fn few_values_are_counted_exactly() {
        let mut counter: Frequent<Box<str>> = Frequent::new(10);
        ["b", "a", "c", "a", "b"].iter().for_each(|word| counter.add(*word, 1));
        let top: Vec<(Box<str>, u64)> = counter.top(9);
        assert_eq!(top, [("a".into(), 2), ("b".into(), 2), ("c".into(), 1)]);
        assert!(counter.is_exact());
        assert_eq!((counter.count("a"), counter.count("z")), (2, 0));
    }
}
