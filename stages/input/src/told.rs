//! What an input tells of a sample beside its pixels: names under which captions, addresses and keys stand, in columns, in
//! JSON and in metadata files alike, and which of several captions is taken.

use std::str::FromStr;

use recaption_schemas::OriginalCaption;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::json::Document;

/// Names of image columns, the best first.
pub const IMAGE: [&str; 8] = ["image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes"];
/// Names of the original caption, the best first.
pub const CAPTION: [&str; 8] =
    ["caption", "text", "txt", "alt_text", "captions", "texts", "sentences", "org_caption"];
/// Names of the image's address, the best first.
pub const URL: [&str; 2] = ["url", "image_url"];
/// Names of the key: a column of these names declares it.
pub const KEY: [&str; 2] = ["key", "__key__"];
/// Names of the sample's own JSON.
pub const META: [&str; 2] = ["meta", "json"];

/// The place of the name that fits best: the usual names in their order, each as it is written and then in any case.
pub fn find<'a>(names: impl Iterator<Item = &'a str> + Clone, usual: &[&str]) -> Option<usize> {
    find_all(names, usual).next()
}

/// All places of usual names, the best first.
pub fn find_all<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    usual: &[&str],
) -> impl Iterator<Item = usize> {
    let mut found = Vec::new();
    for usual in usual {
        let exact = names.clone().enumerate().filter(|(_, name)| name == usual);
        let other =
            names.clone().enumerate().filter(|(_, name)| name != usual && name.eq_ignore_ascii_case(usual));
        found.extend(exact.chain(other).map(|(at, _)| at));
    }
    found.into_iter()
}

/// Which of several captions of one sample is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptionPick {
    /// The first.
    #[default]
    First,
    /// The one of the most characters, the first of these.
    Longest,
    /// One that seed and key choose, the same at every run.
    Random,
}

impl CaptionPick {
    /// As it is configured.
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
            .ok_or_else(|| format!("no way to pick a caption is called `{text}`"))
    }
}

/// Picks captions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptionPicker {
    /// How.
    pub pick: CaptionPick,
    /// Of [`CaptionPick::Random`].
    pub seed: u64,
}

impl CaptionPicker {
    /// The caption of the sample `key`; blank ones are none.
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

/// The captions that a JSON value holds: a string, or a list of strings or of objects that hold one.
#[must_use]
pub fn captions_of(json: &str) -> Vec<String> {
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

/// The text of a JSON string or number.
#[must_use]
pub fn text_of(json: &str) -> Option<String> {
    match serde_json::from_str(json).ok()? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Captions and address that an object holds under their usual names, the first that are not blank.
#[must_use]
pub fn of_object(document: &Document) -> (Vec<String>, Option<String>) {
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
    fn names_are_found_in_any_case_and_as_written_first() {
        let names = ["URL", "Caption", "caption", "TXT"];
        assert_eq!(find(names.into_iter(), &CAPTION), Some(2));
        assert_eq!(find_all(names.into_iter(), &CAPTION).collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(find(names.into_iter(), &URL), Some(0));
        assert_eq!(find(names.into_iter(), &KEY), None);
    }

    #[test]
    fn one_of_several_captions_is_taken() {
        let captions = [" ", "a", "longest", "another"].map(str::to_owned);
        let pick = |pick, seed, key: &str| {
            CaptionPicker { pick, seed }.pick(key, &captions).map(String::from).unwrap_or_default()
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
            let picker = CaptionPicker { pick: how, seed: 0 };
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
        let (captions, url) = of_object(&document.expect("JSON"));
        assert_eq!((captions, url.as_deref()), (vec!["b".to_owned(), "c".into()], Some("http://u")));
    }
}
