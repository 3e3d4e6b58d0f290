//! Repairs mojibake: text that was decoded with another encoding than it was written in (ftfy's `fix_encoding`).

use std::sync::LazyLock;

use regex::{Regex, bytes};

use super::{
    codecs::{CODECS, LOST, decode_utf8_variants, sloppy_windows_1252, windows_1252},
    tables::{
        BADNESS, UTF8_CONTINUATION, UTF8_CONTINUATION_STRICT, UTF8_FIRST_OF_2, UTF8_FIRST_OF_3,
        UTF8_FIRST_OF_4,
    },
};

/// Largest number of rounds; real texts need a few, and ftfy has no limit.
pub(super) const MAX_ROUNDS: usize = 32;

/// A constant pattern; a test compiles them all.
macro_rules! pattern {
    ($kind:ty, $pattern:expr) => {
        LazyLock::new(|| <$kind>::new($pattern).ok())
    };
}

static BAD: LazyLock<Option<Regex>> = pattern!(Regex, BADNESS);

/// UTF-8 in which a byte A0 became a space (`ALTERED_UTF8_RE`).
static ALTERED: LazyLock<Option<bytes::Regex>> = pattern!(
    bytes::Regex,
    r"(?-u)[\xc2\xc3\xc5\xce\xd0\xd9][ ]|[\xe2\xe3][ ][\x80-\x84\x86-\x9f\xa1-\xbf]|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf][ ]|[\xf0][ ][\x80-\xbf][\x80-\xbf]|[\xf0][\x80-\xbf][ ][\x80-\xbf]|[\xf0][\x80-\xbf][\x80-\xbf][ ]"
);

/// UTF-8 in which bytes were lost (`LOSSY_UTF8_RE`).
static LOSSY: LazyLock<Option<bytes::Regex>> = pattern!(
    bytes::Regex,
    r"(?-u)[\xc2-\xdf][\x1a]|[\xc2-\xc3][?]|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]|\x1a"
);

/// Returns whether a text looks like mojibake.
fn is_bad(text: &str) -> bool {
    BAD.as_ref().is_some_and(|bad| bad.is_match(text))
}

/// Undoes wrong decodings until nothing changes.
pub(super) fn fix_encoding(text: String) -> String {
    let mut text = text;
    for _ in 0..MAX_ROUNDS {
        match fix_once(&text) {
            Some(fixed) if fixed != text => text = fixed,
            _ => break,
        }
    }
    text
}

/// Undoes one wrong decoding; returns `None` if there is none.
fn fix_once(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    let mut is_latin_1 = false;
    for codec in CODECS.iter() {
        let Some(mut bytes) = codec.encode(text) else { continue };
        is_latin_1 |= codec.name == "latin-1";
        // In MacRoman an en dash followed by a space would match.
        if codec.name != "macroman" && ALTERED.as_ref().is_some_and(|altered| altered.is_match(&bytes)) {
            bytes = restore_byte_a0(&bytes);
        }
        if codec.is_sloppy() {
            bytes = replace_lossy_sequences(&bytes);
        }
        let decoded = if bytes.contains(&0xed) || bytes.contains(&0xc0) {
            decode_utf8_variants(&bytes)
        } else {
            String::from_utf8(bytes).ok()
        };
        if decoded.is_some() {
            return decoded;
        }
    }
    let inconsistent = decode_inconsistent_utf8(text);
    if inconsistent != text {
        return Some(inconsistent);
    }
    if is_latin_1 {
        // Latin-1 with C1 controls is usually Windows-1252.
        let fixed: Option<String> = text.chars().map(|c| windows_1252(c as u8)).collect();
        if fixed.as_ref().is_some_and(|fixed| fixed != text) {
            return fixed;
        }
    }
    Some(fix_c1_controls(text))
}

/// Replaces C1 controls by the characters of Windows-1252, as browsers do.
pub(super) fn fix_c1_controls(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{80}'..='\u{9f}' => sloppy_windows_1252(c as u8),
            c => c,
        })
        .collect()
}

/// Restores bytes A0 that became spaces.
fn restore_byte_a0(bytes: &[u8]) -> Vec<u8> {
    let bytes = separate_a_grave(bytes);
    let Some(altered) = ALTERED.as_ref() else { return bytes };
    let restore = |found: &bytes::Captures<'_>| -> Vec<u8> {
        found[0].iter().map(|b| if *b == b' ' { 0xa0 } else { *b }).collect()
    };
    altered.replace_all(&bytes, restore).into_owned()
}

/// Keeps the space after "à" as a separate word (`A_GRAVE_WORD_RE`), except in Portuguese contractions.
fn separate_a_grave(bytes: &[u8]) -> Vec<u8> {
    const CONTRACTIONS: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        out.push(*first);
        rest = after;
        if let (0xc3, [b' ', behind @ ..]) = (*first, after)
            && !CONTRACTIONS.iter().any(|c| behind.starts_with(c))
        {
            out.extend([0xa0, b' ']);
            rest = behind;
        }
    }
    out
}

/// Replaces sequences of UTF-8 with lost bytes by U+FFFD.
fn replace_lossy_sequences(bytes: &[u8]) -> Vec<u8> {
    match LOSSY.as_ref() {
        Some(lossy) if bytes.iter().any(|b| matches!(*b, LOST | b'?')) => {
            lossy.replace_all(bytes, bytes::NoExpand("\u{fffd}".as_bytes())).into_owned()
        }
        _ => bytes.to_vec(),
    }
}

/// Repairs the parts of a text that look like UTF-8, each separately.
fn decode_inconsistent_utf8(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let length = if at > 0 && is_in(UTF8_CONTINUATION_STRICT, chars[at - 1]) {
            0
        } else {
            utf8_like(&chars[at..])
        };
        if length == 0 {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        let piece: String = chars[at..at + length].iter().collect();
        // A part that is the whole text would recurse forever.
        let shorter = length < chars.len();
        out.push_str(&if shorter && is_bad(&piece) { fix_encoding(piece) } else { piece });
        at += length;
    }
    out
}

/// Returns how many leading characters look like complete sequences of UTF-8 (`UTF8_DETECTOR_RE`).
fn utf8_like(chars: &[char]) -> usize {
    let firsts = [(UTF8_FIRST_OF_2, 1), (UTF8_FIRST_OF_3, 2), (UTF8_FIRST_OF_4, 3)];
    let sequence = |chars: &[char]| {
        firsts.iter().find_map(|(first, more)| {
            let (head, tail) = (chars.first()?, chars.get(1..=*more)?);
            (is_in(first, *head) && tail.iter().all(|c| is_in(UTF8_CONTINUATION, *c))).then_some(more + 1)
        })
    };
    let mut length = 0;
    while let Some(more) = sequence(&chars[length..]) {
        length += more;
    }
    length
}

/// Returns whether a class of characters contains `c`.
fn is_in(class: &str, c: char) -> bool {
    // Except for the space, the classes are beyond ASCII.
    (!c.is_ascii() || c == ' ') && class.contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_compile() {
        assert!(BAD.is_some() && ALTERED.is_some() && LOSSY.is_some());
    }
}
