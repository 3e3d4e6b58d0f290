//! Quotations of captions in the details of rejects.

/// Number of characters of a caption that a detail quotes at most.
const MAX_QUOTED_CHARS: usize = 60;

/// Returns the text in quotation marks, cut to [`MAX_QUOTED_CHARS`].
pub(super) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}
