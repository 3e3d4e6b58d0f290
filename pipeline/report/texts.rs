//! What captions are like: lengths, words, openings, repetitions.

use std::collections::HashSet;

use super::{frequent::Frequent, sample::digest};

/// Words counted, at most, at the same time.
const MAX_WORDS: usize = 200_000;
/// Openings counted, at most, at the same time.
const MAX_OPENINGS: usize = 200_000;
/// Repeated captions counted, at most, at the same time.
const MAX_REPEATED: usize = 50_000;
/// Different captions that are recognised when they occur again: 32 MiB of digests.
const MAX_DISTINCT: usize = 2_000_000;
/// Longest word that is counted, characters: longer ones are addresses or noise.
const MAX_WORD: usize = 40;
/// Characters of a caption by which repetitions are listed.
const MAX_LISTED: usize = 300;
/// Words of an opening.
const OPENING: usize = 3;
/// Longest caption of a bin of its own, words.
pub(super) const MAX_LENGTH: usize = 100;

/// Statistics of one column of captions.
#[derive(Debug)]
pub(super) struct TextStatistics {
    /// Captions counted.
    pub(super) captions: u64,
    /// Captions by number of words; the last bin holds all of [`MAX_LENGTH`] and more.
    pub(super) lengths: Vec<u64>,
    /// Words, all captions together.
    pub(super) word_total: u64,
    /// Characters, all captions together.
    pub(super) characters: u64,
    /// Captions that contain a word.
    pub(super) words: Frequent<Box<str>>,
    /// Captions that begin with these words.
    pub(super) openings: Frequent<Box<str>>,
    /// Occurrences after the first of a caption.
    pub(super) repeated: Frequent<Box<str>>,
    /// Occurrences of captions that occurred before.
    pub(super) repetitions: u64,
    seen: HashSet<u64>,
    /// Buffer.
    lower: String,
}

impl Default for TextStatistics {
    fn default() -> Self {
        Self {
            captions: 0,
            lengths: vec![0; MAX_LENGTH + 1],
            word_total: 0,
            characters: 0,
            words: Frequent::new(MAX_WORDS),
            openings: Frequent::new(MAX_OPENINGS),
            repeated: Frequent::new(MAX_REPEATED),
            repetitions: 0,
            seen: HashSet::new(),
            lower: String::new(),
        }
    }
}

impl TextStatistics {
    /// Counts a caption.
    pub(super) fn push(&mut self, caption: &str) {
        self.captions += 1;
        self.characters += caption.chars().count() as u64;
        let mut lower = std::mem::take(&mut self.lower);
        lower.clear();
        lower.extend(caption.chars().flat_map(char::to_lowercase));
        let mut words: Vec<&str> = words_of(&lower).collect();
        self.word_total += words.len() as u64;
        self.lengths[words.len().min(MAX_LENGTH)] += 1;
        if !words.is_empty() {
            let opening: Vec<&str> = words.iter().take(OPENING).map(|word| clipped(word, MAX_WORD)).collect();
            self.openings.add(opening.join(" ").as_str(), 1);
        }
        words.sort_unstable();
        words.dedup();
        words.retain(|word| word.len() <= 4 * MAX_WORD && word.chars().count() <= MAX_WORD);
        words.iter().for_each(|word| self.words.add(*word, 1));
        self.lower = lower;
        self.push_repetition(caption);
    }

    fn push_repetition(&mut self, caption: &str) {
        let digest = digest(0, &[caption]);
        if self.seen.contains(&digest) {
            self.repetitions += 1;
            self.repeated.add(clipped(caption, MAX_LISTED), 1);
        } else if self.seen.len() < MAX_DISTINCT {
            self.seen.insert(digest);
        }
    }

    /// Returns whether repetitions are all counted.
    pub(super) fn knows_all_repetitions(&self) -> bool {
        self.seen.len() < MAX_DISTINCT && self.repeated.is_exact()
    }

    /// Returns the mean number of words.
    pub(super) fn mean_words(&self) -> Option<f64> {
        (self.captions > 0).then(|| self.word_total as f64 / self.captions as f64)
    }

    /// Returns the mean number of characters.
    pub(super) fn mean_characters(&self) -> Option<f64> {
        (self.captions > 0).then(|| self.characters as f64 / self.captions as f64)
    }
}

/// Returns the words of a text: runs of letters and digits, with apostrophes and hyphens within them.
pub(super) fn words_of(text: &str) -> impl Iterator<Item = &str> {
    let joins = |c: char| matches!(c, '\'' | '\u{2019}' | '-');
    text.split(move |c: char| !c.is_alphanumeric() && !joins(c))
        .map(move |word| word.trim_matches(joins))
        .filter(|word| !word.is_empty())
}

/// Returns the first `max` characters.
pub(super) fn clipped(text: &str, max: usize) -> &str {
    text.char_indices().nth(max).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_counted_by_words_openings_and_repetitions() {
        let mut texts = TextStatistics::default();
        for caption in
            ["A dog's red-hot ball, a ball!", "a dog's Red-hot BALL", "¡Über!", "", "a dog's Red-hot BALL"]
        {
            texts.push(caption);
        }
        assert_eq!((texts.captions, texts.word_total, texts.repetitions), (5, 6 + 4 + 1 + 4, 1));
        assert_eq!((texts.words.count("ball"), texts.words.count("über"), texts.words.count("a")), (3, 1, 3));
        assert_eq!(texts.openings.top(1), [("a dog's red-hot".into(), 3)]);
        assert_eq!(texts.repeated.top(5), [("a dog's Red-hot BALL".into(), 1)]);
        assert_eq!((texts.lengths[0], texts.lengths[4], texts.lengths[6]), (1, 2, 1));
        texts.push(&"word ".repeat(5000));
        assert_eq!(texts.lengths[MAX_LENGTH], 1);
    }

    #[test]
    fn text_is_clipped_between_characters() {
        assert_eq!((clipped("äöü", 2), clipped("äöü", 3), clipped("", 3)), ("äö", "äöü", ""));
    }
}
