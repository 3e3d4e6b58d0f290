//! Names as bytes <-> text: keys of samples and parts of paths.
//!
//! UTF-8 names are unchanged. A byte that is not UTF-8 becomes `\xHH` (two upper-case hexadecimal digits), so that names stay
//! distinct. To make this reversible, a backslash before `x` and two such digits becomes `\x5C`.

/// Returns a name as text, reversibly: see [`name_bytes`].
#[must_use]
pub fn name_text(bytes: &[u8]) -> String {
    escape(bytes, |_| false)
}

/// Returns a name as text for a store's path, as [`name_text`], with control characters escaped too.
#[must_use]
pub fn path_text(bytes: &[u8]) -> String {
    escape(bytes, |c| c.is_ascii_control())
}

/// Returns the name of which [`name_text`] or [`path_text`] made this text.
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

/// Returns the byte of an escape at the start of `bytes`.
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
    fn other_bytes_are_escaped() {
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
    fn escaping_is_reversible() {
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
