//! Single-byte encodings as in ftfy, and its lenient UTF-8.

use std::{collections::HashMap, sync::LazyLock};

use super::tables::{ENCODINGS, WINDOWS_1252};

/// Byte that encodes U+FFFD in the sloppy encodings.
pub(super) const LOST: u8 = 0x1a;

/// A single-byte encoding, ASCII below 128.
pub(super) struct Codec {
    /// ftfy's name.
    pub name: &'static str,
    bytes: HashMap<char, u8>,
}

impl Codec {
    /// Returns whether undefined bytes are passed as the characters of the same number, and U+FFFD as [`LOST`].
    pub(crate) fn is_sloppy(&self) -> bool {
        self.name.starts_with("sloppy")
    }

    /// Returns the bytes of a text, if it can have been decoded from this encoding.
    pub(crate) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars()
            .map(|c| match c {
                '\u{1a}' if self.is_sloppy() => None,
                char::REPLACEMENT_CHARACTER if self.is_sloppy() => Some(LOST),
                c if c.is_ascii() => Some(c as u8),
                c => self.bytes.get(&c).copied(),
            })
            .collect()
    }
}

/// Encodings that cause mojibake, in the order they are tried.
pub(super) static CODECS: LazyLock<Vec<Codec>> = LazyLock::new(|| {
    let bytes = |table: &str| table.chars().zip(0x80..=0xff).collect();
    ENCODINGS.iter().map(|(name, table)| Codec { name, bytes: bytes(table) }).collect()
});

static CODE_PAGE_1252: LazyLock<Vec<char>> = LazyLock::new(|| WINDOWS_1252.chars().collect());

/// Returns the character of a byte in Windows-1252, if it is defined.
pub(super) fn windows_1252(byte: u8) -> Option<char> {
    if byte < 0x80 {
        return Some(byte.into());
    }
    Some(CODE_PAGE_1252[usize::from(byte) - 0x80]).filter(|c| *c != char::REPLACEMENT_CHARACTER)
}

/// Returns the character of a byte in Windows-1252, or the character of the same number if it is undefined.
pub(super) fn sloppy_windows_1252(byte: u8) -> char {
    windows_1252(byte).unwrap_or(byte.into())
}

/// Decodes `utf-8-variants`: UTF-8 that may hold CESU-8's surrogate pairs and Java's two-byte zero.
pub(super) fn decode_utf8_variants(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let special = (0..rest.len()).find(|at| is_special(&rest[*at..])).unwrap_or(rest.len());
        let used = match rest {
            _ if special > 0 => {
                out.push_str(std::str::from_utf8(&rest[..special]).ok()?);
                special
            }
            [0xc0, _, ..] => {
                out.push('\0');
                2
            }
            [_, high @ 0xa0..=0xaf, b, _, low, c, ..] if is_pair(rest) => {
                let bits = |byte: &u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
                let code = bits(high, 0x0f, 16) + bits(b, 0x3f, 10) + bits(low, 0x0f, 6) + bits(c, 0x3f, 0);
                out.push(char::from_u32(code + 0x1_0000)?);
                6
            }
            // A lone surrogate, or the end: plain UTF-8 decides.
            _ => {
                let length = if rest.len() < 6 { rest.len() } else { 3 };
                out.push_str(std::str::from_utf8(&rest[..length]).ok()?);
                length
            }
        };
        rest = &rest[used..];
    }
    Some(out)
}

/// Returns whether a sequence that is not valid UTF-8 starts here, or may start at the end of the bytes.
fn is_special(bytes: &[u8]) -> bool {
    match bytes {
        [0xc0, rest @ ..] => is_end(rest) || rest[0] == 0x80,
        [0xed, rest @ ..] => {
            is_end(rest)
                || (0xa0..=0xbf).contains(&rest[0])
                    && (is_end(&rest[1..]) || (0x80..=0xbf).contains(&rest[1]))
        }
        _ => false,
    }
}

/// Returns whether a CESU-8 pair starts here; like ftfy's pattern, it may be truncated by the end.
fn is_pair(bytes: &[u8]) -> bool {
    let ranges = [0xed..=0xed, 0xa0..=0xaf, 0x80..=0xbf, 0xed..=0xed, 0xb0..=0xbf, 0x80..=0xbf];
    for (at, range) in ranges.iter().enumerate() {
        if at > 0 && is_end(&bytes[at..]) {
            return true;
        }
        if !range.contains(&bytes[at]) {
            return false;
        }
    }
    true
}

/// Returns whether Python's `$` matches: at the end, or at a line break before it.
fn is_end(bytes: &[u8]) -> bool {
    matches!(bytes, [] | [b'\n'])
}
