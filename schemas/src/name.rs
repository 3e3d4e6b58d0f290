//! Names that are bytes -> text, and back: labels of samples and parts of paths.
//!
//! Most names are UTF-8 and stay as they are. A byte that is not becomes `\xHH` (two upper-case hexadecimal digits), so that
//! two names never become one. For that to be reversible, a backslash that stands before `x` and two such digits in the name
//! itself becomes `\x5C`.

/// Text for a name, from which [`name_bytes`] makes the name again.
#[must_use]
pub fn name_text(bytes: &[u8]) -> String {
    escape(bytes, |_| false)
}

/// As [`name_text`], for paths of stores, which hold no control characters: they are escaped too.
#[must_use]
pub fn path_text(bytes: &[u8]) -> String {
    escape(bytes, |c| c.is_ascii_control())
}

/// The name that [`name_text`] or [`path_text`] made this text of.
#[must_use]
pub fn name_bytes(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut name = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escaped_byte(&bytes[at..]) {
            Some(byte) => {
                name.push(byte);
                at += ESCAPE_LENGTH;
            }
            None => {
                name.push(bytes[at]);
                at += 1;
            }
        }
    }
    name
}

/// Bytes of an escape: `\xHH`.
const ESCAPE_LENGTH: usize = 4;

/// The byte that an escape at the beginning stands for.
fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = bytes else { return None };
    let digit = |c: &u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    };
    Some(digit(high)? << 4 | digit(low)?)
}

fn escape(bytes: &[u8], also: impl Fn(char) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if also(c) || c == '\\' && escaped_byte(rest).is_some() {
                text.push_str(&format!("\\x{:02X}", u32::from(c)));
            } else {
                text.push(c);
            }
            rest = &rest[c.len_utf8()..];
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02X}"));
        }
        rest = &rest[chunk.invalid().len()..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_stay_and_others_are_told_apart() {
        for usual in ["a/b.jpg", "größe.png", "a\\b", "c:\\x4", "", "a\tb", "\\xE9 is no \\xe9"] {
            if !usual.contains("\\xE9") {
                assert_eq!(name_text(usual.as_bytes()), usual);
            }
            assert_eq!(name_bytes(&name_text(usual.as_bytes())), usual.as_bytes());
        }
        assert_eq!(name_text(b"caf\xe9"), "caf\\xE9");
        assert_eq!(name_text(b"caf\xe8"), "caf\\xE8");
        assert_eq!(name_text(b"caf\\xE9"), "caf\\x5CxE9");
        assert_eq!(path_text(b"a\tb\n"), "a\\x09b\\x0A");
    }

    #[test]
    fn every_name_comes_back() {
        let mut seed = 3_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        const PARTS: [&[u8]; 9] = [b"\\", b"x", b"5", b"C", b"E9", b"\xe9", b"\xc3\xa9", b"\n", b"/"];
        for _ in 0..5000 {
            let name: Vec<u8> = (0..next() % 8).flat_map(|_| PARTS[next() % PARTS.len()].to_vec()).collect();
            assert_eq!(name_bytes(&name_text(&name)), name, "{name:?}");
            assert_eq!(name_bytes(&path_text(&name)), name, "{name:?}");
        }
    }
}
