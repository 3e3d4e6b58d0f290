//! A list of words and phrases, looked for in a text's words.

use std::collections::HashMap;

use super::words;

/// Words and phrases, each as its words in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Phrases {
    /// By first word: the phrases that begin with it.
    by_first: HashMap<String, Vec<Vec<String>>>,
}

impl Phrases {
    /// Takes phrases apart; one given twice, in whatever case, counts once.
    ///
    /// # Errors
    /// The first phrase that holds no word.
    pub fn new(phrases: &[String]) -> Result<Self, String> {
        let mut by_first: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        for phrase in phrases {
            let words = words(phrase);
            let Some(first) = words.first() else { return Err(phrase.clone()) };
            let same_start = by_first.entry(first.clone()).or_default();
            if !same_start.contains(&words) {
                same_start.push(words);
            }
        }
        // The order given must not show in a reject's detail.
        by_first.values_mut().for_each(|same_start| same_start.sort());
        Ok(Self { by_first })
    }

    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// The phrase that begins first in `words`.
    pub fn first_in(&self, words: &[String]) -> Option<&[String]> {
        (0..words.len()).find_map(|at| {
            let same_start = self.by_first.get(&words[at])?;
            same_start.iter().find(|phrase| words[at..].starts_with(phrase)).map(Vec::as_slice)
        })
    }

    /// All phrases, in an order that does not depend on how they were given.
    pub fn sorted(&self) -> Vec<String> {
        let mut all: Vec<String> = self.by_first.values().flatten().map(|words| words.join(" ")).collect();
        all.sort();
        all
    }
}
