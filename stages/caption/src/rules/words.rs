//! Words as the rules compare them.

use unicode_segmentation::UnicodeSegmentation;

/// Returns the words of a text, in lower case.
pub(super) fn words(text: &str) -> Vec<String> {
    text.unicode_words().map(|word| word.to_lowercase().replace('’', "'")).collect()
}

/// Returns what equal candidates have in common: their words, in lower case. A text without words is compared as it is.
pub(super) fn fold(text: &str) -> String {
    let folded = words(text).join(" ");
    if folded.is_empty() { text.trim().to_owned() } else { folded }
}
