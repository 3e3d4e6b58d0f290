//! Keys of samples: labels that are distinct within a shard.
//!
//! A sample is identified by its shard and position. Only a key that the input declares can be a duplicate; one that is derived
//! from a path or a row number is made distinct by the row number.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

/// Detail of a reject whose declared key occurred before in the shard.
pub(crate) const DUPLICATE_KEY: &str = "an earlier sample of this shard has the same key";

/// A set of keys, 16 bytes each.
///
/// Keys are remembered as the first 128 bits of their SHA-256: among a million keys, two different ones share a digest with
/// odds of 1 to 7e26, which are (n²/2) / 2^128.
#[derive(Debug, Default)]
pub(crate) struct KeySet(HashSet<u128>);

impl KeySet {
    /// Adds `key`, and returns whether it is new.
    pub(crate) fn insert(&mut self, key: &str) -> bool {
        let digest = Sha256::digest(key.as_bytes());
        let bits =
            digest.iter().take(size_of::<u128>()).fold(0, |value, byte| value << 8 | u128::from(*byte));
        self.0.insert(bits)
    }
}

/// The key of a row as the input has it, before it is made distinct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowKey {
    /// The value of a key column.
    Declared(String),
    /// Derived from the row's path or number.
    Derived(String),
}

impl RowKey {
    /// Returns the key of a row that has none: its number within the table or list, nine digits.
    pub(crate) fn of_number(row: u64) -> Self {
        Self::Derived(format!("{row:09}"))
    }
}

/// Makes the keys of a shard's rows distinct.
#[derive(Debug, Default)]
pub(crate) struct KeyAssigner {
    all: KeySet,
    declared: KeySet,
}

/// The key of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AssignedKey {
    /// The key; distinct within the shard unless it is a duplicate.
    pub(crate) key: String,
    /// Whether an earlier row declares the same key.
    pub(crate) is_duplicate: bool,
}

impl KeyAssigner {
    /// Returns the key of row number `row`.
    pub(crate) fn assign(&mut self, key: RowKey, row: u64) -> AssignedKey {
        match key {
            RowKey::Declared(key) if !self.declared.insert(&key) => AssignedKey { key, is_duplicate: true },
            RowKey::Declared(key) | RowKey::Derived(key) => {
                AssignedKey { key: self.distinct(key, row), is_duplicate: false }
            }
        }
    }

    fn distinct(&mut self, mut key: String, row: u64) -> String {
        while !self.all.insert(&key) {
            key.push_str(&format!("#{row}"));
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_declared_keys_are_duplicates() {
        let mut keys = KeyAssigner::default();
        let rows = [
            RowKey::Derived("a".into()),
            RowKey::Derived("a#2".into()),
            RowKey::Derived("a".into()),
            RowKey::Declared("a".into()),
            RowKey::Declared("a".into()),
            RowKey::Declared("b".into()),
            RowKey::Derived("b".into()),
        ];
        let assigned: Vec<(String, bool)> = rows
            .into_iter()
            .zip(0..)
            .map(|(key, row)| keys.assign(key, row))
            .map(|assigned| (assigned.key, assigned.is_duplicate))
            .collect();
        let expected = [
            ("a", false),
            ("a#2", false),
            ("a#2#2", false),
            ("a#3", false),
            ("a", true),
            ("b", false),
            ("b#6", false),
        ];
        assert_eq!(assigned, expected.map(|(key, is_duplicate)| (key.to_owned(), is_duplicate)));
    }
}
