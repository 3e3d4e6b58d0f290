//! Text cleaning of ALBEF (`pre_caption` in the authors' `dataset/utils.py`), with which the model was trained and evaluated.

use super::is_space;

/// Longest caption, in words between spaces.
const MAX_WORDS: usize = 30;
/// Characters that are removed.
const REMOVED: &str = ",.'!?\"()*#:;~";

/// Returns a caption in lower case without punctuation, with one space where there is more white space, and whether words were dropped
/// because there are more than [`MAX_WORDS`].
pub(crate) fn pre_caption(text: &str) -> (String, bool) {
    let kept = text.to_lowercase().replace(|c| REMOVED.contains(c), "");
    let kept = kept.replace(['-', '/'], " ").replace("<person>", "person");
    let mut folded = String::with_capacity(kept.len());
    let mut rest = kept.as_str();
    while let Some(from) = rest.find(is_space) {
        let (before, after) = rest.split_at(from);
        let behind = after.trim_start_matches(is_space);
        let spaces = &after[..after.len() - behind.len()];
        folded += before;
        // A single tab or line break stays.
        folded += if spaces.chars().nth(1).is_some() { " " } else { spaces };
        rest = behind;
    }
    folded += rest;
    let trimmed = folded.trim_end_matches('\n').trim_matches(' ');
    match trimmed.match_indices(' ').nth(MAX_WORDS - 1) {
        Some((end, _)) => (trimmed[..end].to_owned(), true),
        None => (trimmed.to_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::pre_caption;

    /// What the authors' Python function gives.
    #[test]
    fn captions_are_cleaned_as_by_the_authors() {
        let cases = [
            ("A dog's life, (really)!", "a dogs life really"),
            ("black-and-white / grey", "black and white grey"),
            ("<PERSON> on a  bike.\n", "person on a bike"),
            ("  two\t\tcats \n", "two cats"),
            ("tab\tkept", "tab\tkept"),
            ("one \u{1c} two", "one two"),
            ("\u{c9}t\u{c9} #1: ~50%", "\u{e9}t\u{e9} 1 50%"),
            ("...", ""),
            ("[SEP] &amp; a_b", "[sep] &amp a_b"),
        ];
        for (text, want) in cases {
            assert_eq!(pre_caption(text), (want.to_owned(), false), "{text:?}");
        }
    }

    #[test]
    fn captions_end_after_thirty_words() {
        let words: Vec<String> = (0..31).map(|i| format!("w{i}")).collect();
        assert_eq!(pre_caption(&words.join(" ")), (words[..30].join(" "), true));
        assert_eq!(pre_caption(&words[..30].join("  ")), (words[..30].join(" "), false));
    }
}
