//! The original caption of a sample, which an input may bring as text, as JSON or in several versions.

use std::str::FromStr;

use recaption_schemas::OriginalCaption;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    columns::{CAPTION, URL, find_all},
    json::Document,
};

/// Which of several captions of one sample becomes its original caption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptionPick {
    /// The first.
    #[default]
    First,
    /// The one with the most characters; the first among equals.
    Longest,
    /// One chosen by seed and key, the same in every run.
    Random,
}

impl CaptionPick {
    /// Returns the name by which it is configured.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Longest => "longest",
            Self::Random => "random",
        }
    }
}

impl FromStr for CaptionPick {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::First, Self::Longest, Self::Random]
            .into_iter()
            .find(|pick| pick.as_str() == text)
            .ok_or_else(|| format!("unknown caption pick `{text}`"))
    }
}

/// Chooses one of the captions of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptionSelection {
    /// The rule.
    pub pick: CaptionPick,
    /// Seed of [`CaptionPick::Random`].
    pub seed: u64,
}

impl CaptionSelection {
    /// Returns the original caption of the sample `key`; blank captions do not count.
    #[must_use]
    pub fn pick(&self, key: &str, captions: &[String]) -> Option<OriginalCaption> {
        let mut captions: Vec<OriginalCaption> =
            captions.iter().filter_map(|text| OriginalCaption::new(text)).collect();
        let at = match self.pick {
            CaptionPick::First => 0,
            CaptionPick::Longest => {
                let length = |at: &usize| captions[*at].as_str().chars().count();
                (0..captions.len()).rev().max_by_key(length)?
            }
            CaptionPick::Random => {
                let digest = Sha256::new().chain_update(self.seed.to_le_bytes()).chain_update(key).finalize();
                let number = digest.iter().take(8).fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
                usize::try_from(number % captions.len().max(1) as u64).unwrap_or(0)
            }
        };
        (at < captions.len()).then(|| captions.swap_remove(at))
    }
}

/// Returns the captions in a JSON value: a string, or a list of strings or of objects with a field `raw`, `caption` or `text`.
pub(crate) fn captions_of(json: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<Value>(json) else { return Vec::new() };
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) => {
            ["raw", "caption", "text"].iter().find_map(|name| fields.get(*name)?.as_str().map(str::to_owned))
        }
        _ => None,
    };
    match &value {
        Value::Array(list) => list.iter().filter_map(one).collect(),
        Value::Number(number) => vec![number.to_string()],
        value => one(value).into_iter().collect(),
    }
}

/// Returns the text of a JSON string or number.
pub(crate) fn text_of(json: &str) -> Option<String> {
    match serde_json::from_str(json).ok()? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Returns the captions and the URL in an object's fields of the usual names, each the first that is not blank.
pub(crate) fn captions_and_url(document: &Document) -> (Vec<String>, Option<String>) {
    let captions = find_all(document.names(), &CAPTION)
        .map(|at| captions_of(document.value(at)))
        .find(|captions| captions.iter().any(|text| OriginalCaption::new(text).is_some()));
    let url = find_all(document.names(), &URL).find_map(|at| text_of(document.value(at)));
    (captions.unwrap_or_default(), url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_captions_is_selected() {
        let captions = [" ", "a", "longest", "another"].map(str::to_owned);
        let pick = |pick, seed, key: &str| {
            CaptionSelection { pick, seed }.pick(key, &captions).map(String::from).unwrap_or_default()
        };
        assert_eq!(pick(CaptionPick::First, 0, "k"), "a");
        assert_eq!(pick(CaptionPick::Longest, 0, "k"), "longest", "the first of the longest");
        let all: std::collections::BTreeSet<String> =
            (0..50).map(|key| pick(CaptionPick::Random, 1, &key.to_string())).collect();
        assert_eq!(all.len(), 3, "every one at times");
        assert_eq!(pick(CaptionPick::Random, 1, "k"), pick(CaptionPick::Random, 1, "k"));
        let by_seed: std::collections::BTreeSet<String> =
            (0..50).map(|seed| pick(CaptionPick::Random, seed, "k")).collect();
        assert_eq!(by_seed.len(), 3);
        for how in [CaptionPick::First, CaptionPick::Longest, CaptionPick::Random] {
            let picker = CaptionSelection { pick: how, seed: 0 };
            assert_eq!(picker.pick("k", &[]), None);
            assert_eq!(picker.pick("k", &[" ".into()]), None);
        }
    }

    #[test]
    fn captions_are_strings_or_lists() {
        assert_eq!(captions_of("\"a\""), ["a"]);
        assert_eq!(captions_of("[\"a\", {\"raw\": \"b\"}, 3, {\"x\": 1}]"), ["a", "b"]);
        assert_eq!(captions_of("null"), [] as [&str; 0]);
        let document = Document::read(br#"{"caption": " ", "Text": ["b", "c"], "URL": "http://u"}"#);
        let (captions, url) = captions_and_url(&document.expect("JSON"));
        assert_eq!((captions, url.as_deref()), (vec!["b".to_owned(), "c".into()], Some("http://u")));
    }
}
