//! ftfy 6.3.1's `fix_text` with its defaults, which is what open_clip calls.
//!
//! A port of Robyn Speer's library (Apache-2.0), because ids must match those of CLIP's training.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use regex::Regex;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::{
    encoding::{MAX_ROUNDS, fix_c1_controls, fix_encoding},
    html,
    tables::{LIGATURES, WIDTHS},
};

/// Largest number of characters that are repaired at once.
const SEGMENT: usize = 1_000_000;

static ENTITY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new("&#?[0-9A-Za-z]{1,24};").ok());
static TERMINAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\x1b\[(?:\d|;)*[a-zA-Z]").ok());

/// Entity names in upper case that HTML does not define, with the upper-case text of the lower-case name.
static UPPER_CASE_NAMES: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let whole = html::NAMES.iter().filter(|(name, _)| name.ends_with(';') && **name == name.to_lowercase());
    let capitals = whole.map(|(name, text)| (format!("&{}", name.to_uppercase()), text.to_uppercase()));
    capitals.filter(|(entity, _)| html::unescape(entity) == *entity).collect()
});

/// Repairs mojibake and other damage, line by line.
#[must_use]
pub(super) fn fix_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // A line with a "<" is HTML: its entities, and those of all following lines, are kept.
    let mut entities = true;
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.char_indices().nth(SEGMENT).map_or(rest.len(), |(at, _)| at);
            let (segment, after) = rest.split_at(end);
            entities &= !segment.contains('<');
            out.push_str(&fix_segment(segment, entities));
            rest = after;
        }
    }
    out
}

fn fix_segment(segment: &str, entities: bool) -> String {
    let mut text = segment.to_owned();
    for _ in 0..MAX_ROUNDS {
        let before = text.clone();
        if entities && text.contains('&') {
            text = unescape_whole(&text).into_owned();
        }
        // The other fixers do not change printable ASCII.
        if !text.bytes().all(|b| matches!(b, b'\t' | b'\n' | b' '..=b'~')) {
            text = fix_characters(fix_encoding(text));
        }
        if text == before {
            break;
        }
    }
    text
}

/// Unescapes entities with a semicolon; those that HTML would read in part are kept.
fn unescape_whole(text: &str) -> Cow<'_, str> {
    let Some(entity) = ENTITY.as_ref() else { return text.into() };
    entity.replace_all(text, |found: &regex::Captures<'_>| {
        let entity = &found[0];
        if entity.starts_with("&#") {
            let character = html::unescape(entity);
            return if character.contains(';') { entity.to_owned() } else { character };
        }
        let known = html::NAMES.get(&entity[1..]).copied();
        known.or_else(|| UPPER_CASE_NAMES.get(entity).map(String::as_str)).unwrap_or(entity).to_owned()
    })
}

/// Applies ftfy's other fixers, in its order.
fn fix_characters(text: String) -> String {
    let text = fix_c1_controls(&text);
    let text = replaced(&text, &LIGATURES);
    let text = replaced(&text, &WIDTHS);
    let text: String = text.chars().map(straight_quote).collect();
    let text = text.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
    let text = match TERMINAL.as_ref() {
        Some(terminal) if text.contains('\u{1b}') => terminal.replace_all(&text, "").into_owned(),
        _ => text,
    };
    let text: String = text.chars().filter(|c| !is_dropped(*c)).collect();
    if is_nfc(&text) { text } else { text.nfc().collect() }
}

/// Replaces characters by a sorted table.
fn replaced(text: &str, table: &[(char, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match table.binary_search_by_key(&c, |(c, _)| *c) {
            Ok(at) => out.push_str(table[at].1),
            Err(_) => out.push(c),
        }
    }
    out
}

fn straight_quote(c: char) -> char {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        c => c,
    }
}

/// Returns whether a control character is removed (ftfy's `CONTROL_CHARS`).
fn is_dropped(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{8}'
            | '\u{b}'
            | '\u{e}'..='\u{1f}'
            | '\u{7f}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}'
    )
}
