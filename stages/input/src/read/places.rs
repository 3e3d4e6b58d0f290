//! Which samples of a shard are read when only some are wanted.

use std::collections::BTreeSet;

use recaption_schemas::SplitMix64;

/// Places in a shard, as fractions of it. What a place means depends on the format: a byte, a row, or a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Places {
    /// In [0, 1), ascending.
    fractions: Vec<f64>,
    seed: u64,
}

impl Places {
    /// Takes fractions in [0, 1), in any order. The seed decides where the number of samples is known only at the end.
    #[must_use]
    pub fn new(mut fractions: Vec<f64>, seed: u64) -> Self {
        fractions.retain(|fraction| (0.0..1.0).contains(fraction));
        fractions.sort_by(f64::total_cmp);
        Self { fractions, seed }
    }

    /// Returns the number of places.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fractions.len()
    }

    /// Returns whether there is no place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fractions.is_empty()
    }

    /// Returns distinct numbers below `n`: one for each place, or all `n` where there are more places.
    pub(super) fn numbers_below(&self, n: u64) -> BTreeSet<u64> {
        let mut numbers = BTreeSet::new();
        for number in self.offsets(n) {
            if numbers.len() as u64 == n {
                break;
            }
            let mut free = number;
            while !numbers.insert(free) {
                free = (free + 1) % n;
            }
        }
        numbers
    }

    /// Returns the place of each fraction in 0..`n`, ascending, possibly several times the same; none if `n` is 0.
    pub(super) fn offsets(&self, n: u64) -> impl Iterator<Item = u64> + '_ {
        let fractions = self.fractions.iter().filter(move |_| n > 0);
        fractions.map(move |fraction| ((fraction * n as f64) as u64).min(n.saturating_sub(1)))
    }

    /// Returns at most `count` of the places, evenly spaced.
    pub(super) fn thinned(&self, count: usize) -> Self {
        let (all, count) = (self.len(), count.min(self.len()));
        let fractions = (0..count).map(|at| self.fractions[at * all / count]).collect();
        Self { fractions, seed: self.seed }
    }

    /// Returns an empty reservoir of as many items as there are places.
    pub(super) fn reservoir<T>(&self) -> Reservoir<T> {
        Reservoir { size: self.len(), offered: 0, random: SplitMix64::new(self.seed), items: Vec::new() }
    }
}

/// A uniform choice among items whose number is not known beforehand (Vitter's algorithm R, 1985).
#[derive(Debug)]
pub(super) struct Reservoir<T> {
    size: usize,
    offered: u64,
    random: SplitMix64,
    /// With their numbers, in no order.
    items: Vec<(u64, T)>,
}

impl<T> Reservoir<T> {
    /// Offers the next item.
    pub(super) fn offer(&mut self, item: T) {
        let number = self.offered;
        self.offered += 1;
        if self.items.len() < self.size {
            self.items.push((number, item));
            return;
        }
        let at = self.random.next_below(usize::try_from(self.offered).unwrap_or(usize::MAX));
        if let Some(place) = self.items.get_mut(at) {
            *place = (number, item);
        }
    }

    /// Takes the chosen items, in the order in which they were offered.
    pub(super) fn take(&mut self) -> Vec<T> {
        let mut items = std::mem::take(&mut self.items);
        items.sort_by_key(|(number, _)| *number);
        items.into_iter().map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_below_the_bound() {
        let places = Places::new(vec![0.99, 0.0, 0.5, 0.51, 0.52, 1.0], 1);
        assert_eq!(places.len(), 5, "1 is not a place");
        assert_eq!(places.numbers_below(100), [0, 50, 51, 52, 99].into());
        assert_eq!(places.numbers_below(10), [0, 5, 6, 7, 9].into());
        assert_eq!(places.numbers_below(6), [0, 3, 4, 5, 1].into(), "taken places move on, and around");
        assert_eq!(places.numbers_below(2), [0, 1].into());
        assert!(places.numbers_below(0).is_empty());
        assert_eq!(places.thinned(2).numbers_below(100), [0, 51].into());
    }

    #[test]
    fn reservoir_is_uniform_and_keeps_the_order() {
        let mut hits = [0_u32; 20];
        for seed in 0..4000 {
            let mut reservoir = Places::new(vec![0.1; 5], seed).reservoir();
            (0..20_usize).for_each(|item| reservoir.offer(item));
            let chosen = reservoir.take();
            assert!(chosen.len() == 5 && chosen.is_sorted(), "{chosen:?}");
            chosen.into_iter().for_each(|item| hits[item] += 1);
        }
        // 1000 each; five standard deviations of a binomial are 137.
        assert!(hits.iter().all(|n| (863..1137).contains(n)), "{hits:?}");
        let mut few = Places::new(vec![0.1; 5], 0).reservoir();
        (0..3).for_each(|item| few.offer(item));
        assert_eq!(few.take(), [0, 1, 2]);
    }
}
