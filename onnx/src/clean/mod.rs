//! Text cleaning of open_clip's tokenizer (`_clean_lower`): ftfy's repairs, HTML entities unescaped twice, white space folded,
//! lower case.
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

/// Cleans a text for tokenisation.
#[must_use]
pub(crate) fn clean(text: &str) -> String {
    let text = fix_text(text);
    let text = unescape(&unescape(&text));
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

/// Returns whether a character is white space for Python's `str.isspace`: Unicode's white space and the four separators among the control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
