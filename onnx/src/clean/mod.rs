//! Text as open_clip cleans it before CLIP's tokenizer sees it (`_clean_lower`): ftfy's repairs, HTML entities unescaped
//! twice, white space folded, lower case.
//!
//! For what is tokenised only: what is stored stays as it was said.

mod codecs;
mod encoding;
mod fix;
mod html;
#[rustfmt::skip]
mod tables;
#[cfg(test)]
mod tests;

pub use fix::fix_text;
pub use html::unescape;

/// Cleans a text.
#[must_use]
pub fn clean(text: &str) -> String {
    let text = fix_text(text);
    let text = unescape(&unescape(&text));
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

/// Python's `str.isspace`: Unicode's white space and the four separators among the control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
