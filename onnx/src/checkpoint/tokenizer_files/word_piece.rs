//! Builds the text of a `tokenizer.json` from BERT's `vocab.txt`, one entry a line, as transformers' BertTokenizer reads it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// File of the vocabulary.
pub(super) const VOCABULARY: &str = "vocab.txt";
/// File with the tokenizer's settings, optional.
pub(super) const SETTINGS: &str = "tokenizer_config.json";
/// Marks an entry that continues a word.
const CONTINUATION: &str = "##";
/// Longer words are unknown, in characters.
const MAX_WORD_CHARS: usize = 100;
/// Keys of the special entries with BERT's names, which the vocabulary must have.
const SPECIALS: [(&str, &str); 5] = [
    ("pad_token", "[PAD]"),
    ("unk_token", "[UNK]"),
    ("cls_token", "[CLS]"),
    ("sep_token", "[SEP]"),
    ("mask_token", "[MASK]"),
];

/// Builds the tokenizer of the text of `vocab.txt` and, if there is one, of `tokenizer_config.json`.
///
/// Special entries that the settings name and the vocabulary lacks (`[DEC]`, `[ENC]`) get the ids after it, `bos_token` first.
///
/// # Errors
/// When the vocabulary lacks one of BERT's special entries or has one twice, or the settings are malformed.
pub(super) fn from_vocabulary(vocabulary: &str, settings: Option<&[u8]>) -> Result<Vec<u8>, String> {
    let settings: Map<String, Value> = match settings {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|e| format!("{SETTINGS} is malformed: {e}"))?,
        None => Map::new(),
    };
    // In an order of its own: a model's digest depends on the tokenizer's bytes.
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, entry) in vocabulary.lines().enumerate() {
        if ids.insert(entry, id).is_some() {
            return Err(format!("line {}: the entry `{}` is there twice", id + 1, entry.escape_debug()));
        }
    }
    let name = |key: &str, default: &str| name_of(settings.get(key)).unwrap_or_else(|| default.to_owned());
    let mut added = Vec::new();
    for (key, default) in SPECIALS {
        let entry = name(key, default);
        let id = *ids.get(entry.as_str()).ok_or_else(|| format!("the special entry `{entry}` is missing"))?;
        added.push((id, entry));
    }
    added.sort();
    let mut next = vocabulary.lines().count();
    for entry in further_specials(&settings) {
        if !ids.contains_key(entry.as_str()) && added.iter().all(|(_, known)| *known != entry) {
            added.push((next, entry));
            next += 1;
        }
    }
    let flag = |key: &str, default: bool| settings.get(key).and_then(Value::as_bool).unwrap_or(default);
    let (start, end) = (name("cls_token", "[CLS]"), name("sep_token", "[SEP]"));
    let special = |(id, entry): &(usize, String)| json!({"id": id, "content": entry, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let part = |entry: &str| json!({"SpecialToken": {"id": entry, "type_id": 0}});
    let part_ids = |entry: &str| json!({"id": entry, "ids": [ids.get(entry)], "tokens": [entry]});
    let sequence = |id: &str, kind: u8| json!({"Sequence": {"id": id, "type_id": kind}});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.iter().map(special).collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": flag("tokenize_chinese_chars", true),
            "strip_accents": settings.get("strip_accents"), "lowercase": flag("do_lower_case", true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [part(&start), sequence("A", 0), part(&end)],
            "pair": [part(&start), sequence("A", 0), part(&end), sequence("B", 1), part(&end)],
            "special_tokens": {(start.as_str()): part_ids(&start), (end.as_str()): part_ids(&end)},
        },
        "decoder": {"type": "WordPiece", "prefix": CONTINUATION, "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": name("unk_token", "[UNK]"), "continuing_subword_prefix": CONTINUATION,
            "max_input_chars_per_word": MAX_WORD_CHARS, "vocab": ids,
        },
    });
    serde_json::to_vec(&tokenizer).map_err(|e| e.to_string())
}

/// Returns a special entry's text: a string, or the `content` of an object.
fn name_of(value: Option<&Value>) -> Option<String> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// Returns the entries that are special besides BERT's, in the order in which transformers adds them.
fn further_specials(settings: &Map<String, Value>) -> Vec<String> {
    let lists = ["additional_special_tokens", "extra_special_tokens"];
    let listed = lists.into_iter().filter_map(|key| settings.get(key)?.as_array()).flatten();
    name_of(settings.get("bos_token")).into_iter().chain(listed.filter_map(|v| name_of(Some(v)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nc\n##at\ncab\nçat\n,\n";

    fn tokenizer(settings: Option<&str>) -> tokenizers::Tokenizer {
        let json = from_vocabulary(WORDS, settings.map(str::as_bytes)).expect("a tokenizer");
        tokenizers::Tokenizer::from_bytes(json).expect("loads")
    }

    fn ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, true).expect("encoded").get_ids().to_vec()
    }

    #[test]
    fn words_are_split_lowered_and_put_between_specials() {
        let plain = tokenizer(None);
        assert_eq!(ids(&plain, "A  Cat, çat zzz"), [2, 5, 6, 7, 10, 6, 7, 1, 3]);
        assert_eq!(ids(&plain, "a [SEP] a"), [2, 5, 3, 5, 3]);
        assert_eq!(plain.decode(&[2, 5, 6, 7, 10, 5, 3], true).expect("text"), "a cat, a");
        let cased = tokenizer(Some(r#"{"do_lower_case": false}"#));
        assert_eq!(ids(&cased, "a Cat çat"), [2, 5, 1, 9, 3]);
    }

    #[test]
    fn further_special_entries_follow_the_vocabulary() {
        let more = r#"{"bos_token": "[DEC]", "additional_special_tokens": [{"content": "[ENC]"}, "[MASK]"]}"#;
        let tokenizer = tokenizer(Some(more));
        assert_eq!(tokenizer.token_to_id("[DEC]").zip(tokenizer.token_to_id("[ENC]")), Some((11, 12)));
        assert_eq!(ids(&tokenizer, "[ENC]a"), [2, 12, 5, 3]);
        assert_eq!(tokenizer.get_vocab_size(true), 13);
    }

    #[test]
    fn equal_vocabularies_give_equal_bytes() {
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\ne\nf\ng";
        let first = from_vocabulary(vocabulary, None).expect("a tokenizer");
        for _ in 0..4 {
            assert_eq!(from_vocabulary(vocabulary, None).expect("a tokenizer"), first);
        }
    }

    #[test]
    fn malformed_vocabularies_are_named() {
        let error = |words: &str| from_vocabulary(words, None).expect_err("malformed");
        assert!(error("[PAD]\n[UNK]\n[CLS]\n[SEP]\n").contains("`[MASK]` is missing"));
        assert!(error("a\nb\na\n").contains("line 3: the entry `a`"));
        assert!(from_vocabulary(WORDS, Some(b"[]")).expect_err("a list").contains(SETTINGS));
    }
}
