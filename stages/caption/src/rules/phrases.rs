//! Banned words and phrases, searched for in a text's words.

use std::collections::HashMap;

use super::words::words;

/// A set of words and phrases, each as its words in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Phrases {
    /// First words, with the phrases that begin with each.
    by_first: HashMap<String, Vec<Vec<String>>>,
}

impl Phrases {
    /// Splits phrases into words; one given twice, in whatever case, counts once.
    ///
    /// # Errors
    /// Fails with the first phrase that has no word.
    pub(super) fn new(phrases: &[String]) -> Result<Self, String> {
        let mut by_first: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        for phrase in phrases {
            let words = words(phrase);
            let Some(first) = words.first() else { return Err(phrase.clone()) };
            let same_start = by_first.entry(first.clone()).or_default();
            if !same_start.contains(&words) {
                same_start.push(words);
            }
        }
        // A reject's detail must not depend on the order given.
        by_first.values_mut().for_each(|same_start| same_start.sort());
        Ok(Self { by_first })
    }

    /// Returns whether there is no phrase.
    pub(super) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// Returns the phrase that begins first in `words`.
    pub(super) fn first_in(&self, words: &[String]) -> Option<&[String]> {
        (0..words.len()).find_map(|at| {
            let same_start = self.by_first.get(&words[at])?;
            same_start.iter().find(|phrase| words[at..].starts_with(phrase)).map(Vec::as_slice)
        })
    }

    /// Returns all phrases in alphabetical order.
    pub(super) fn sorted(&self) -> Vec<String> {
        let mut all: Vec<String> = self.by_first.values().flatten().map(|words| words.join(" ")).collect();
        all.sort();
        all
    }
}
