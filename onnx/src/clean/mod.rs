//! Text cleaning of open_clip's tokenizers (`_clean_lower` and others): ftfy's repairs, HTML entities unescaped twice, white space
//! folded, lower case. And that of transformers' tokenizers for SigLIP.
//!
//! It applies to texts that are tokenised, not to texts that are stored. ALBEF's cleaning is another, `albef`.

mod albef;
mod codecs;
mod encoding;
mod fix;
mod html;
#[rustfmt::skip]
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use albef::pre_caption;
use fix::fix_text;
use html::unescape;

use crate::model::TextCleaning;

/// Stands for a space in SentencePiece's vocabularies; SiglipTokenizer reads it as one.
const SENTENCE_PIECE_SPACE: char = '\u{2581}';

/// Cleans a text for tokenisation.
#[must_use]
pub(crate) fn clean(text: &str, cleaning: TextCleaning) -> String {
    match cleaning {
        TextCleaning::Lower => folded(&repaired(text)).to_lowercase(),
        TextCleaning::Whitespace => folded(&repaired(text)),
        TextCleaning::Canonicalize => {
            folded(&without_punctuation(&repaired(text).replace('_', " ")).to_lowercase())
        }
        TextCleaning::Siglip => {
            folded(&without_punctuation(&text.replace(SENTENCE_PIECE_SPACE, " ").to_lowercase()))
        }
        // Character by character, as the tokenizers library does it: a sigma at the end of a word is no exception.
        TextCleaning::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
    }
}

/// Returns a text with ftfy's repairs, and HTML entities unescaped twice.
fn repaired(text: &str) -> String {
    unescape(&unescape(&fix_text(text)))
}

/// Returns a text without white space at its ends, and with one space wherever else there was any.
fn folded(text: &str) -> String {
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// Returns a text without ASCII punctuation, Python's `string.punctuation`.
fn without_punctuation(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_punctuation()).collect()
}

/// Returns whether a character is white space for Python's `str.isspace`: Unicode's white space and the four separators among the control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
