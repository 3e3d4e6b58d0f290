//! What a directory without `open_clip_config.json` is instead, so that an error can end the search.

use std::path::Path;

use serde_json::Value;

use crate::model::MODEL_FILE;

/// Longest quoted name, in characters.
const MAX_NAME_CHARS: usize = 40;

/// Returns what `dir` is, and what to do, if that can be told.
pub(super) fn describe(dir: &Path) -> Option<String> {
    if dir.starts_with("hf:") || dir.to_string_lossy().starts_with("hf-hub:") {
        return Some("a model on the hub; download it first: recaption pull ORG/NAME --dir DIR".into());
    }
    if dir.is_file() {
        return Some(
            "a file; expected the directory that holds open_clip_config.json and the weights".into(),
        );
    }
    if dir.join(MODEL_FILE).is_file() {
        return Some("a model folder, which is exported already: use it as --model".into());
    }
    if !dir.join("config.json").exists() && has_authors_file(dir) {
        return Some(
            "a .pth file without a config.json; of an ALBEF write one with the side of its images, {\"image_res\": 256} of the pre-trained \
             weights, and put bert-base-uncased's vocab.txt beside it"
                .into(),
        );
    }
    let text = std::fs::read_to_string(dir.join("config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("unknown");
    let kind: String = kind.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect();
    let advice = match kind.as_str() {
        "clip" => "; look for the same model in open_clip's format, as laion publishes it",
        _ => "",
    };
    Some(format!(
        "a model of Hugging Face transformers (config.json, model_type `{kind}`), not of open_clip: only CoCa, CLIP and \
         SigLIP in open_clip's format, BLIP and SigLIP in transformers', and ALBEF as its authors publish it are read{advice}"
    ))
}

/// Returns whether a directory holds a file as BLIP's and ALBEF's authors publish it.
fn has_authors_file(dir: &Path) -> bool {
    let is_pth = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "pth"))
    };
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.any(is_pth))
}
