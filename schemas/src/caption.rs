//! The original caption of an input.

/// An original caption: never blank, and without surrounding white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalCaption(String);

impl OriginalCaption {
    /// Trims `text`; `None` if it is blank.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_matches(is_blank);
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<OriginalCaption> for String {
    fn from(caption: OriginalCaption) -> Self {
        caption.0
    }
}

/// Returns whether a character is white space, a byte-order mark, a zero-width space or a NUL.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}' | '\0')
}

#[cfg(test)]
mod tests {
    use super::OriginalCaption;

    #[test]
    fn blank_text_is_not_a_caption() {
        for blank in ["", " ", "\n", " \t\r\n", "\u{feff}", "\u{a0}\u{3000}", "\0"] {
            assert_eq!(OriginalCaption::new(blank), None, "{blank:?}");
        }
        assert_eq!(OriginalCaption::new(" a cat\n").as_ref().map(OriginalCaption::as_str), Some("a cat"));
        assert_eq!(String::from(OriginalCaption::new("\u{feff}a\n b").expect("a caption")), "a\n b");
    }
}
