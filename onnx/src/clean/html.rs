//! HTML entities, with the semantics of Python's `html.unescape`: names without semicolon where HTML has them, the longest
//! name first, Windows-1252 behind the numbers 128 to 159.

use std::{collections::HashMap, sync::LazyLock};

use super::codecs::sloppy_windows_1252;

/// Length of the longest name, in characters, without its semicolon.
const LONGEST_NAME: usize = 32;

/// HTML's entity names, with their semicolon if they have one, without the ampersand.
pub(super) static NAMES: LazyLock<HashMap<&'static str, &'static str>> =
    LazyLock::new(|| entities::ENTITIES.iter().map(|e| (&e.entity[1..], e.characters)).collect());

/// Replaces every entity and character reference by its characters; other text is kept.
#[must_use]
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let used = match rest.strip_prefix('#') {
            Some(number) => numeric(number, &mut out).map(|used| used + 1),
            None => named(rest, &mut out),
        };
        match used {
            Some(used) => rest = &rest[used..],
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    out
}

/// Reads a numeric reference after `&#`; returns its length in bytes, or `None` if there is no number.
fn numeric(text: &str, out: &mut String) -> Option<usize> {
    let (radix, prefix) = if text.starts_with(['x', 'X']) { (16, 1) } else { (10, 0) };
    let digits = text[prefix..].bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    if digits == 0 {
        return None;
    }
    let end = prefix + digits;
    // A number too large for the type is too large for Unicode.
    let number = u32::from_str_radix(&text[prefix..end], radix).unwrap_or(u32::MAX);
    out.extend(referred(number));
    Some(end + usize::from(text[end..].starts_with(';')))
}

/// Returns the character of a number, by HTML's rules for invalid ones; `None` for those that Python drops.
fn referred(number: u32) -> Option<char> {
    match number {
        0 => Some(char::REPLACEMENT_CHARACTER),
        // 0x0d is an exception of HTML, which maps it to itself.
        0x0d => Some('\r'),
        0x80..=0x9f => Some(sloppy_windows_1252(number as u8)),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        // The last two of every plane.
        _ if number & 0xfffe == 0xfffe && number <= 0x10_ffff => None,
        _ => Some(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)),
    }
}

/// Reads a named entity after `&`. Unknown names are shortened from their end until something is known.
fn named(text: &str, out: &mut String) -> Option<usize> {
    let stops = |c: char| "\t\n\u{c} <&#;".contains(c);
    let length = text.char_indices().take(LONGEST_NAME).take_while(|(_, c)| !stops(*c));
    let ends: Vec<usize> = length.map(|(at, c)| at + c.len_utf8()).collect();
    let bare = *ends.last()?;
    let full = bare + usize::from(text[bare..].starts_with(';'));
    // Python looks no shorter than two characters.
    let shorter = ends.iter().rev().filter(|end| **end < full).take_while(|end| ends[0] < **end).copied();
    for end in std::iter::once(full).chain(shorter) {
        if let Some(characters) = NAMES.get(&text[..end]) {
            out.push_str(characters);
            out.push_str(&text[end..full]);
            return Some(full);
        }
    }
    None
}
