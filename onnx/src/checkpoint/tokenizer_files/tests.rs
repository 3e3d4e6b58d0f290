//! Tokenizers that were built against those that open_clip's vocabulary gave.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{CLIP_MERGES, MERGES, VOCABULARY, build::from_vocabulary, clip, from_merges, read};
use crate::checkpoint::{Checkpoint, ModelConfig};

/// SHA-256 of what `scripts/build_tokenizer.py` builds, as `json.dumps(.., sort_keys=True, separators=(",", ":"))`.
const SCRIPT_SHA256: &str = "c90ae999a8dab31756dd554b80426db1d1982398690ab2464cdbe81ddddb3612";

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Serialises with sorted keys.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            let pairs: Vec<String> =
                pairs.into_iter().map(|(key, value)| format!("{}:{}", json!(key), sorted(value))).collect();
            format!("{{{}}}", pairs.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[test]
fn bundled_vocabulary_gives_what_the_script_gives() {
    let text = sorted(&parsed(&clip().expect("CLIP's tokenizer")));
    assert_eq!(recaption_schemas::hex(&Sha256::digest(text.as_bytes())), SCRIPT_SHA256);
}

/// The files of transformers for a tokenizer that was built: `vocab.json` and `merges.txt`.
fn files_of_transformers(tokenizer: &Value) -> (Value, String) {
    let mut vocabulary = tokenizer["model"]["vocab"].as_object().expect("entries").clone();
    for (own, theirs) in [("<start_of_text>", "<|startoftext|>"), ("<end_of_text>", "<|endoftext|>")] {
        let id = vocabulary.remove(own).expect("the entry");
        vocabulary.insert(theirs.into(), id);
    }
    let lines =
        tokenizer["model"]["merges"].as_array().expect("merges").iter().map(|pair| {
            format!("{} {}\n", pair[0].as_str().expect("left"), pair[1].as_str().expect("right"))
        });
    (vocabulary.into(), format!("#version: 0.2\n{}", lines.collect::<String>()))
}

#[test]
fn files_of_transformers_give_the_same_tokenizer() {
    let built = from_merges(vec!["l o", "lo w</w>", "e r</w>"]).expect("a tokenizer");
    let (vocabulary, merges) = files_of_transformers(&parsed(&built));
    let again = from_vocabulary(vocabulary.to_string().as_bytes(), &merges).expect("a tokenizer");
    assert_eq!(parsed(&again), parsed(&built));
}

#[test]
fn ids_follow_merges_and_word_ends() {
    let built = from_merges(vec!["l o", "lo w</w>", "e r</w>"]).expect("a tokenizer");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), built).expect("written");
    let special = crate::model::SpecialIds::of_vocabulary(517);
    let tokenizer =
        crate::tokenizer::Tokenizer::from_file(file.path(), special, 16, 517).expect("a tokenizer");
    let ids = tokenizer.encode("LOW lower").expect("ids").ids;
    // start, "low", "lo" "w" "er", end; the letter w is the 119 - 33rd printable byte.
    assert_eq!(ids, [515, 513, 512, 119 - 33, 514, 516]);
    assert_eq!(tokenizer.decode(&ids).expect("text"), "low lower");
}

#[test]
fn files_of_a_checkpoint_come_before_the_bundled_vocabulary() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("written");
    let config = |size: usize, name: Value| {
        let vision = json!({"image_size": 8, "patch_size": 4, "width": 64, "layers": 1});
        let text = json!({"vocab_size": size, "hf_tokenizer_name": name});
        let config = json!({"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}});
        write(Checkpoint::CONFIG, config.to_string().as_bytes());
        let whole =
            json!({"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {"vocab_size": size}}});
        let parsed = ModelConfig::parse(&whole.to_string()).expect("a configuration");
        read(dir.path(), &parsed.text).expect("readable")
    };
    assert_eq!(config(512, Value::Null), None, "not CLIP's vocabulary");
    assert_eq!(config(49_408, json!("roberta")), None, "another tokenizer is named");
    assert_eq!(config(49_408, Value::Null), Some(clip().expect("CLIP's")));
    let own = from_merges(vec!["l o", "lo w</w>"]).expect("a tokenizer");
    let (vocabulary, merges) = files_of_transformers(&parsed(&own));
    write(VOCABULARY, vocabulary.to_string().as_bytes());
    assert_eq!(config(49_408, Value::Null), Some(clip().expect("CLIP's")), "half of a vocabulary is none");
    write(MERGES, merges.as_bytes());
    assert_eq!(parsed(&config(49_408, Value::Null).expect("built")), parsed(&own));
    std::fs::remove_file(dir.path().join(VOCABULARY)).expect("removed");
    write(CLIP_MERGES, b"no gzip");
    let error = read(dir.path(), &ModelConfig::parse(CONFIG).expect("a configuration").text);
    assert!(error.expect_err("damaged").to_string().contains("cannot be decompressed"));
    write(Checkpoint::TOKENIZER, b"{}");
    assert_eq!(config(512, Value::Null).as_deref(), Some(b"{}".as_slice()));
}

/// A CLIP's configuration.
const CONFIG: &str =
    r#"{"model_cfg": {"embed_dim": 8, "vision_cfg": {"width": 64, "layers": 1}, "text_cfg": {"layers": 1}}}"#;

#[test]
fn other_vocabularies_are_refused() {
    let built = parsed(&from_merges(vec!["l o"]).expect("a tokenizer"));
    let (vocabulary, merges) = files_of_transformers(&built);
    let with = |entry: &str, id: Value| {
        let mut changed = vocabulary.clone();
        changed[entry] = id;
        changed
    };
    for (changed, want) in [
        (with("a", json!(3)), "once each"),
        (with("new", json!(9999)), "once each"),
        (with("a", json!(-1)), "not an object of entries and ids"),
        (json!([]), "not an object of entries and ids"),
        (json!({"<s>": 0, "</s>": 1}), "CLIP's kind of vocabulary"),
        (json!({"<|startoftext|>": 0, "<|endoftext|>": 1}), "CLIP's kind of vocabulary"),
        (json!({}), "CLIP's kind of vocabulary"),
    ] {
        let error = from_vocabulary(changed.to_string().as_bytes(), &merges).expect_err("refused");
        assert!(error.contains(want), "{want}: {error}");
    }
    for (merges, want) in [("x", "not a merge"), ("a b c", "not a merge"), ("a b", "not of the vocabulary")] {
        let error = from_vocabulary(vocabulary.to_string().as_bytes(), merges).expect_err("refused");
        assert!(error.contains(want), "{want}: {error}");
    }
}
