//! Keys of rows: labels, distinct within a shard.
//!
//! A sample is what stands at (shard, position). Only a key that the input declares can occur twice; one that was derived, from
//! a path or the row's number, is made distinct by the row.

use crate::webdataset::Keys;

/// What a reject says of a key that was declared before.
pub(crate) const DUPLICATE_KEY: &str = "an earlier sample of this shard has the same key";

/// What a row is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// By a column that declares keys.
    Declared(String),
    /// By its path, or its number.
    Derived(String),
}

/// The labels of a shard's rows so far.
#[derive(Debug, Default)]
pub struct Labels {
    all: Keys,
    declared: Keys,
}

/// The key of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The key.
    pub key: String,
    /// Whether an earlier row declares the same.
    pub duplicate: bool,
}

impl Labels {
    /// The key of row `row`.
    pub fn label(&mut self, label: Label, row: u64) -> Labelled {
        match label {
            Label::Declared(key) if !self.declared.is_new(&key) => Labelled { key, duplicate: true },
            Label::Declared(key) | Label::Derived(key) => {
                Labelled { key: self.distinct(key, row), duplicate: false }
            }
        }
    }

    fn distinct(&mut self, mut key: String, row: u64) -> String {
        while !self.all.is_new(&key) {
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
        let mut labels = Labels::default();
        let rows = [
            Label::Derived("a".into()),
            Label::Derived("a#2".into()),
            Label::Derived("a".into()),
            Label::Declared("a".into()),
            Label::Declared("a".into()),
            Label::Declared("b".into()),
            Label::Derived("b".into()),
        ];
        let found: Vec<(String, bool)> = rows
            .into_iter()
            .zip(0..)
            .map(|(label, row)| labels.label(label, row))
            .map(|labelled| (labelled.key, labelled.duplicate))
            .collect();
        let wanted = [
            ("a", false),
            ("a#2", false),
            ("a#2#2", false),
            ("a#3", false),
            ("a", true),
            ("b", false),
            ("b#6", false),
        ];
        assert_eq!(found, wanted.map(|(key, duplicate)| (key.to_owned(), duplicate)));
    }
}
