//! A caption that an input brought.

/// A caption that the input said: never empty, and without white space around it. White space alone is no caption, whatever
/// format it came in: there is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalCaption(String);

impl OriginalCaption {
    /// From what the input holds; `None` where that is nothing but white space.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_matches(is_blank);
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The text.
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

/// Unicode's white space, and what shows nothing either: byte-order marks, zero-width spaces, NULs.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}' | '\0')
}

#[cfg(test)]
mod tests {
    use super::OriginalCaption;

    #[test]
    fn white_space_is_no_caption() {
        for blank in ["", " ", "\n", " \t\r\n", "\u{feff}", "\u{a0}\u{3000}", "\0"] {
            assert_eq!(OriginalCaption::new(blank), None, "{blank:?}");
        }
        assert_eq!(OriginalCaption::new(" a cat\n").as_ref().map(OriginalCaption::as_str), Some("a cat"));
        assert_eq!(String::from(OriginalCaption::new("\u{feff}a\n b").expect("a caption")), "a\n b");
    }
}
