//! An estimate of where in the order of keys the keys of a folder lie, from the keys that were seen so far.
//!
//! Each place in a key has an alphabet: the characters that were seen there, completed to digits, hex digits or letters
//! where more than one was seen. A key is then a fraction in mixed radix, from 0 (before all keys) to 1 (after all). Only
//! efficiency depends on it: a poor estimate makes ranges of unequal size, never a wrong listing.

use std::collections::BTreeSet;

/// Places of a key that are looked at: no store has longer keys.
const MAX_PLACES: usize = 1024;
/// Least width of a range that can be divided: the precision of a fraction.
const MIN_WIDTH: f64 = 1e-13;
/// A boundary is as long as needed to lie within this share of the range from its middle.
const PRECISION: f64 = 1.0 / 8.0;

/// The characters of one place.
#[derive(Debug, Default)]
struct Place {
    seen: BTreeSet<char>,
    /// Sorted.
    alphabet: Vec<char>,
}

impl Place {
    fn insert(&mut self, c: char) {
        if self.seen.insert(c) {
            self.alphabet = complete(&self.seen);
        }
    }
}

/// Returns the characters that are likely where these were seen, sorted.
fn complete(seen: &BTreeSet<char>) -> Vec<char> {
    if seen.len() < 2 {
        return seen.iter().copied().collect();
    }
    let mut all = seen.clone();
    for (first, last_hex, last) in [('0', '9', '9'), ('A', 'F', 'Z'), ('a', 'f', 'z')] {
        let mut of_class = seen.range(first..=last).peekable();
        if of_class.peek().is_some() {
            let is_hex = of_class.all(|c| *c <= last_hex);
            all.extend(first..=if is_hex { last_hex } else { last });
        }
    }
    all.into_iter().collect()
}

/// Returns the least character after `c` that a key can end with.
fn successor(c: char) -> Option<char> {
    let next = match c {
        '.' => '0', // not the separator of folders
        '\u{d7ff}' => '\u{e000}',
        _ => char::from_u32(u32::from(c) + 1)?,
    };
    (!next.is_control()).then_some(next)
}

/// The keys of a folder as far as they are known, without the folder's own path.
#[derive(Debug, Default)]
pub(super) struct KeySpace {
    places: Vec<Place>,
}

impl KeySpace {
    /// Adds a key that exists.
    pub(super) fn insert(&mut self, key: &str) {
        for (at, c) in key.chars().take(MAX_PLACES).enumerate() {
            if at == self.places.len() {
                self.places.push(Place::default());
            }
            self.places[at].insert(c);
        }
    }

    /// Returns where a key lies among those that begin as it does up to the place `skip`, from 0 to 1.
    fn position(&self, key: &str, skip: usize) -> f64 {
        let (mut position, mut scale) = (0.0, 1.0);
        for (c, Place { alphabet, .. }) in key.chars().zip(&self.places).skip(skip) {
            let (rank, count) = (alphabet.partition_point(|other| *other < c), alphabet.len() as f64);
            position += scale * rank as f64 / count;
            scale /= count;
            if alphabet.get(rank) != Some(&c) || scale < f64::EPSILON {
                break;
            }
        }
        position
    }

    /// Returns the key that follows all keys with the same beginning as all that were seen; `None` where they have no common
    /// beginning.
    pub(super) fn end(&self) -> Option<String> {
        let common = self.places.iter().take_while(|place| place.seen.len() == 1);
        end_of_prefix(common.flat_map(|place| place.seen.first()).collect())
    }

    /// Estimates the keys after `last` and up to `until`, if they are as dense as the `count` keys from `first` to `last`. Returns
    /// infinity if those are too dense to say.
    pub(super) fn remaining(&self, (first, last, count): (&str, &str, usize), until: Option<&str>) -> f64 {
        let skip = until.map_or(0, |until| common_prefix(last, until).chars().count());
        let is_inside = until.is_none_or(|until| common_prefix(first, until).chars().count() >= skip);
        let begin = if is_inside { self.position(first, skip) } else { 0.0 };
        let (last, end) = (self.position(last, skip), until.map_or(1.0, |until| self.position(until, skip)));
        if last > begin { count as f64 * (end - last) / (last - begin) } else { f64::INFINITY }
    }

    /// Returns a key near the middle of the keys after `after` and up to `until`, which it is neither of.
    pub(super) fn middle(&self, after: &str, until: Option<&str>) -> Option<String> {
        let common = until.map_or("", |until| common_prefix(after, until));
        let skip = common.chars().count();
        let (begin, end) =
            (self.position(after, skip), until.map_or(1.0, |until| self.position(until, skip)));
        let width = end - begin;
        if width < MIN_WIDTH {
            return None;
        }
        let (mut rest, mut scale, mut key) = (begin + width / 2.0, 1.0, common.to_owned());
        for Place { alphabet, .. } in self.places.iter().skip(skip) {
            let count = alphabet.len() as f64;
            let rank = ((rest * count) as usize).min(alphabet.len() - 1);
            let c = *alphabet.get(rank)?;
            key.push(c);
            (rest, scale) = (rest * count - rank as f64, scale / count);
            let is_between = key.as_str() > after && until.is_none_or(|until| key.as_str() < until);
            if is_between && c != '/' && scale <= width * PRECISION {
                return Some(key);
            }
        }
        None
    }
}

/// Returns the key that follows all keys with this beginning, if there is one.
pub(super) fn end_of_prefix(mut prefix: String) -> Option<String> {
    let last = prefix.pop()?;
    prefix.push(successor(last)?);
    Some(prefix)
}

/// Returns what two keys have in common at their beginning.
pub(super) fn common_prefix<'k>(a: &'k str, b: &str) -> &'k str {
    let end = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    &a[..end.unwrap_or(a.len().min(b.len()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(keys: &[&str]) -> KeySpace {
        let mut space = KeySpace::default();
        keys.iter().for_each(|key| space.insert(key));
        space
    }

    #[test]
    fn positions_follow_the_order_of_keys() {
        let space = space(&["000-ab.json", "127-0f.json", "555-90.json"]);
        let keys = ["", "0", "000-ab.json", "12", "127-0f.json", "13", "500", "9", "x", "\u{10ffff}"];
        let positions: Vec<f64> = keys.iter().map(|key| space.position(key, 0)).collect();
        assert!(positions.is_sorted(), "{positions:?}");
        assert!((space.position("500", 0) - 0.5).abs() < 1e-9, "{positions:?}");
    }

    #[test]
    fn middles_lie_between_and_near_the_middle() {
        let space = space(&["a/000", "a/555"]);
        assert_eq!(space.middle("a/0", None).as_deref(), Some("a/5"));
        let quarter = space.middle("a/0", Some("a/5")).expect("a middle");
        assert_eq!(quarter, "a/25");
        assert_eq!(space.middle("a/555", Some("a/555")), None);
        assert_eq!(space.end().as_deref(), Some("a0"), "what follows `a/`");
    }

    #[test]
    fn prefixes_end_where_no_key_continues() {
        assert_eq!(space(&["part-001", "part-002"]).end().as_deref(), Some("part-01"));
        assert_eq!(space(&["a.1", "a.2"]).end().as_deref(), Some("a0"));
        assert_eq!(space(&["1", "2"]).end(), None);
        assert_eq!(space(&["\u{10ffff}1", "\u{10ffff}2"]).end(), None);
    }
}
