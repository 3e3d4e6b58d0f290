//! A BLIP captioner's golden: a safetensors file, and the JSON file next to it.

use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;

use crate::{
    model::{ModelFolder, SpecialIds},
    verify::{report::VerifyError, tensor_file::TensorFile},
};

/// The JSON file. Lengths count the start token and the prompt, as transformers' do.
#[derive(Deserialize)]
pub(super) struct Settings {
    /// Start token, `[DEC]`.
    dec: i64,
    /// End token.
    sep: i64,
    /// Padding.
    pad: i64,
    /// Maximal length of captions.
    pub(super) max_length: usize,
    /// Minimal length of beams, of `greedy_min` and of `prompt_beam`.
    #[serde(rename = "min_length_beam")]
    pub(super) min_length: usize,
    /// Beams of the beam search.
    pub(super) num_beams: usize,
    /// Exponent of the length that a beam's log-probability is divided by.
    #[serde(default = "one")]
    pub(super) length_penalty: f32,
    /// The prompt in words.
    #[serde(default)]
    pub(super) prompt_text: Option<String>,
    /// Texts of `greedy`.
    #[serde(default)]
    pub(super) greedy_text: Option<Vec<String>>,
    /// Texts of `beam`.
    #[serde(default)]
    pub(super) beam_text: Option<Vec<String>>,
    /// Texts of `prompt_greedy`.
    #[serde(default)]
    pub(super) prompt_greedy_text: Option<Vec<String>>,
    /// Texts and their ids, `[CLS]` to `[SEP]`.
    #[serde(default)]
    pub(super) tokenizer_cases: Vec<TokenizerCase>,
}

fn one() -> f32 {
    1.0
}

/// A text and its ids.
#[derive(Deserialize)]
pub(super) struct TokenizerCase {
    /// The text.
    pub(super) text: String,
    /// Its ids with `[CLS]` and `[SEP]`.
    pub(super) ids: Vec<i64>,
}

/// A golden that fits the model: what every comparison needs. Other tensors are read from `file`.
pub(super) struct Golden<'a> {
    /// The tensors.
    pub(super) file: TensorFile<'a>,
    /// The JSON file.
    pub(super) settings: Settings,
    /// Images, `N`.
    pub(super) count: usize,
    /// Pixels, u8 RGB `[N, S, S, 3]`.
    pub(super) images: Vec<u8>,
}

impl<'a> Golden<'a> {
    /// Parses the contents of the golden `path`, and reads the JSON file of the same name.
    ///
    /// # Errors
    /// When a file is malformed or missing, or does not fit the model.
    pub(super) fn parse(data: &'a [u8], path: &Path, model: &ModelFolder) -> Result<Self, VerifyError> {
        let json = path.with_extension("json");
        let text = std::fs::read(&json)
            .map_err(|e| unusable(&json, format!("{e}; the file must hold ids and lengths")))?;
        let settings: Settings = serde_json::from_slice(&text).map_err(|e| unusable(&json, e.to_string()))?;
        let SpecialIds { pad, start, end } = model.spec.special_ids;
        if (start, end, pad) != (settings.dec, settings.sep, settings.pad) {
            let what = format!(
                "special ids {:?} differ from the model's {:?}",
                (settings.dec, settings.sep, settings.pad),
                (start, end, pad)
            );
            return Err(unusable(&json, what));
        }
        let file = TensorFile::parse(data).map_err(|what| unusable(path, what))?;
        let side = Some(model.spec.image_size as usize);
        let (shape, images) = file
            .tensor("images", Dtype::U8, &[None, side, side, Some(3)])
            .map_err(|what| unusable(path, what))?;
        if shape[0] == 0 {
            return Err(unusable(path, "there are no images to compare".into()));
        }
        Ok(Self { file, settings, count: shape[0], images })
    }
}

/// Returns the error for a file that cannot be used.
pub(super) fn unusable(path: &Path, what: String) -> VerifyError {
    VerifyError::Golden { path: path.display().to_string(), what }
}
