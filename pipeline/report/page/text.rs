//! Text for HTML, scripts and shells.

/// Escapes text for HTML, in elements and in attributes with double quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // HTML has no way to write these.
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

/// Writes a value as JSON that may stand in a `script` element.
///
/// # Errors
/// Returns an error when the value has no JSON form.
pub(super) fn json_for_script(value: &serde_json::Value) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    // All of them occur in strings alone.
    let json = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    Ok(json.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029"))
}

/// Quotes a word for a POSIX shell. A leading `-` is no flag.
pub(super) fn shell_word(text: &str) -> String {
    let text = if text.starts_with('-') { format!("./{text}") } else { text.to_owned() };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Writes a number with thousands separated.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Writes a share in percent.
pub(super) fn percent(n: u64, of: u64) -> String {
    if of == 0 {
        return "\u{2013}".to_owned();
    }
    let percent = 100.0 * n as f64 / of as f64;
    if n > 0 && percent < 0.05 { "< 0.1 %".to_owned() } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        assert_eq!(escaped("<b a=\"x\" b='y'>&\0"), "&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\u{fffd}");
        let json = json_for_script(&serde_json::json!(["</script><!--", "\u{2028}&"])).expect("JSON");
        assert_eq!(json, r#"["\u003c/script\u003e\u003c!--","\u2028\u0026"]"#);
        let back: Vec<String> = serde_json::from_str(&json).expect("JSON");
        assert_eq!(back, ["</script><!--", "\u{2028}&"]);
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        for (text, word) in [
            ("s3://b/out-1", "s3://b/out-1"),
            ("my out", "'my out'"),
            ("it's $(rm)", "'it'\\''s $(rm)'"),
            ("-rf", "./-rf"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1000, 1_234_567].map(grouped));
        assert_eq!([percent(1, 3), percent(1, 100_000), percent(0, 5)], ["33.3 %", "< 0.1 %", "0.0 %"]);
        assert_eq!(percent(0, 0), "\u{2013}");
    }
}
