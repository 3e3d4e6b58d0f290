//! Builds the text of a `tokenizer.json` from the vocabulary of a byte-level byte-pair encoding with ends of words, CLIP's.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

/// Marks the last entry of a word.
const WORD_END: &str = "</w>";
/// open_clip's names of start and end, the last two entries. transformers' vocabularies have other names for the same.
const SPECIALS: [&str; 2] = ["<start_of_text>", "<end_of_text>"];
/// transformers' names of them.
const TRANSFORMERS_SPECIALS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];
/// Longest line that an error quotes, in characters.
const MAX_SHOWN_CHARS: usize = 40;
/// What is a word, as in open_clip, whose pattern ignores case: the long s is an s, and U+0345, a mark that is a case of the
/// letter iota, is neither letter nor anything else, and left out.
const WORDS: &str = r"'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+";

/// Builds the tokenizer of CLIP's merges, `LEFT RIGHT` each: entries are the bytes, the bytes at ends of words, what the
/// merges make, start and end.
///
/// # Errors
/// When a line is not a merge.
pub fn from_merges(merges: Vec<&str>) -> Result<Vec<u8>, String> {
    let merges = pairs(merges)?;
    let letters = alphabet();
    let ends = letters.iter().map(|letter| format!("{letter}{WORD_END}"));
    let made = merges.iter().map(|[left, right]| format!("{left}{right}"));
    let entries: Vec<String> = letters
        .iter()
        .map(char::to_string)
        .chain(ends)
        .chain(made)
        .chain(SPECIALS.map(str::to_owned))
        .collect();
    to_json(&entries, &merges)
}

/// Builds the tokenizer of `vocab.json`, an object of entry and id, and the text of `merges.txt`.
///
/// # Errors
/// When the files are malformed, contradict each other, or are another kind of vocabulary than CLIP's.
pub fn from_vocabulary(vocabulary: &[u8], merges: &str) -> Result<Vec<u8>, String> {
    let ids: BTreeMap<String, usize> =
        serde_json::from_slice(vocabulary).map_err(|e| format!("not an object of entries and ids: {e}"))?;
    let mut entries = vec![None; ids.len()];
    for (entry, id) in ids {
        match entries.get_mut(id) {
            Some(place @ None) => *place = Some(entry),
            _ => return Err(format!("ids are not 0 to {} once each", entries.len().saturating_sub(1))),
        }
    }
    let mut entries: Vec<String> = entries.into_iter().flatten().collect();
    let specials = entries.len().checked_sub(2).and_then(|at| entries.get_mut(at..));
    let specials = specials.filter(|names| *names == TRANSFORMERS_SPECIALS || *names == SPECIALS).ok_or(
        "does not end with CLIP's start and end entries; only CLIP's kind of vocabulary is built without Python",
    )?;
    specials.clone_from_slice(&SPECIALS.map(str::to_owned));
    let lines = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    to_json(&entries, &pairs(lines.collect())?)
}

/// Splits merges at their space.
fn pairs<'a>(lines: Vec<&'a str>) -> Result<Vec<[&'a str; 2]>, String> {
    let pair = |line: &'a str| match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok([left, right])
        }
        _ => {
            let shown: String = line.chars().take(MAX_SHOWN_CHARS).collect();
            Err(format!("`{}` is not a merge of two entries", shown.escape_debug()))
        }
    };
    lines.into_iter().map(pair).collect()
}

/// Returns the character that stands for each byte, in the order of CLIP's vocabulary: printable bytes for themselves, then the
/// others, from U+0100 on (GPT-2's `bytes_to_unicode`).
fn alphabet() -> Vec<char> {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let printable = (0..=u8::MAX).filter(is_printable).map(char::from);
    let others =
        (0x100..).filter_map(char::from_u32).take((0..=u8::MAX).filter(|byte| !is_printable(byte)).count());
    printable.chain(others).collect()
}

fn to_json(entries: &[String], merges: &[[&str; 2]]) -> Result<Vec<u8>, String> {
    let known: HashSet<&str> = entries.iter().map(String::as_str).collect();
    if known.len() != entries.len() {
        return Err("an entry is there twice".into());
    }
    let missing = |entry: &str| !known.contains(entry);
    if let Some(letter) =
        alphabet().iter().find(|c| missing(&c.to_string()) || missing(&format!("{c}{WORD_END}")))
    {
        return Err(format!(
            "`{letter}` or `{letter}{WORD_END}` is missing: only CLIP's kind of vocabulary is built without Python"
        ));
    }
    if let Some([left, right]) =
        merges.iter().find(|[l, r]| missing(l) || missing(r) || missing(&format!("{l}{r}")))
    {
        return Err(format!("the merge `{left} {right}` is not of the vocabulary"));
    }
    let start = entries.len() - SPECIALS.len();
    let special = |name: &str, id: usize| json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let ids: Map<String, Value> =
        entries.iter().enumerate().map(|(id, entry)| (entry.clone(), id.into())).collect();
    // The character of the byte 32.
    let space = "\u{120}";
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(SPECIALS[0], start), special(SPECIALS[1], start + 1)],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            byte_level,
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [SPECIALS[1], start + 1], "cls": [SPECIALS[0], start],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": WORD_END}, "content": space},
            byte_level,
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": WORD_END,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": ids, "merges": merges,
        },
    });
    serde_json::to_vec(&tokenizer).map_err(|e| e.to_string())
}
