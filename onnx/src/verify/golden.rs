//! Reads a golden: a safetensors file of inputs and of what open_clip computed from them, and the JSON file next to it.
//!
//! Everything that a comparison relies on (types, shapes, ids within the vocabulary) is checked here, once.

use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;

use super::{report::VerifyError, tensor_file::TensorFile};
use crate::{caption::BeamSettings, model::ModelFolder};

/// Tensor with probabilities.
pub(super) const PROBABILITY: &str = "probability";
/// Tensor with the ids of texts.
pub(super) const TEXT_IDS: &str = "text_ids";

/// Settings in the JSON file. `seq_len` and `min_seq_len` count the start token; a CLIP's golden has neither.
#[derive(Deserialize)]
struct Settings {
    sot: i64,
    eos: i64,
    pad: i64,
    #[serde(default)]
    seq_len: usize,
    #[serde(default)]
    min_seq_len: usize,
    #[serde(default = "default_beams")]
    num_beams: usize,
    /// Texts of the tensor `text_ids`, as they are before tokenisation.
    #[serde(default)]
    texts: Vec<String>,
}

fn default_beams() -> usize {
    BeamSettings::default().beams
}

/// How the golden's captions were generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    /// Largest number of generated tokens, end token included; 0 if the golden has no captions.
    pub(super) max_tokens: usize,
    /// Smallest number of tokens before the end token.
    pub(super) min_tokens: usize,
    /// Beams of the beam search.
    pub(super) beams: usize,
}

/// Logits of teacher forcing.
pub(super) struct GoldenLogits {
    /// Positions per text, `R`.
    pub(super) positions: usize,
    /// `[N, R, V]`.
    pub(super) values: Vec<f32>,
}

/// The captions of a beam search.
pub(super) struct GoldenBeams {
    /// Ids after the start token, up to and including the end token, if there is one.
    pub(super) ids: Vec<Vec<i64>>,
    /// Sum of log-probabilities divided by the number of ids, one per caption.
    pub(super) scores: Vec<f32>,
}

/// A text and its ids, up to and including the end token.
pub(super) type TokenisedText = (String, Vec<i64>);

/// A golden that fits the model.
pub(super) struct Golden {
    /// Images, `N`.
    pub(super) count: usize,
    /// Pixels, u8 RGB `[N, S, S, 3]`.
    pub(super) images: Vec<u8>,
    /// Ids of every text with start and end token, without padding.
    pub(super) texts: Vec<Vec<i64>>,
    /// `[N, E]`, L2-normalised.
    pub(super) image_features: Vec<f32>,
    /// `[texts, E]`, L2-normalised.
    pub(super) text_features: Vec<f32>,
    /// Logits, for a CoCa.
    pub(super) logits: Option<GoldenLogits>,
    /// Greedy captions: ids after the start token, up to and including the end token.
    pub(super) greedy: Option<Vec<Vec<i64>>>,
    /// Captions of a beam search.
    pub(super) beam: Option<GoldenBeams>,
    /// Whether the golden has image tokens, which are no graph's output.
    pub(super) has_image_tokens: bool,
    /// How captions were generated.
    pub(super) generation: Generation,
    /// Probabilities that texts belong to images, `[N, texts]`, of a SigLIP.
    pub(super) probability: Option<Vec<f32>>,
    /// Texts and their ids.
    pub(super) tokenised: Option<Vec<TokenisedText>>,
}

impl Golden {
    /// Reads `path` and the JSON file of the same name.
    ///
    /// # Errors
    /// When a file cannot be read, a tensor is missing or does not fit the model, or special ids differ.
    pub(super) fn read(path: &Path, model: &ModelFolder) -> Result<Self, VerifyError> {
        let unusable =
            |path: &Path, what: String| VerifyError::Golden { path: path.display().to_string(), what };
        let data = std::fs::read(path).map_err(|e| unusable(path, e.to_string()))?;
        let file = TensorFile::parse(&data).map_err(|what| unusable(path, what))?;
        let json = path.with_extension("json");
        let text = std::fs::read(&json)
            .map_err(|e| unusable(&json, format!("{e}; the file must hold ids and lengths")))?;
        let settings: Settings = serde_json::from_slice(&text).map_err(|e| unusable(&json, e.to_string()))?;
        Tensors { file, settings, model }.golden().map_err(|what| unusable(path, what))
    }
}

/// An open file and the model that its tensors must fit. Errors do not name the file.
struct Tensors<'a> {
    file: TensorFile<'a>,
    settings: Settings,
    model: &'a ModelFolder,
}

impl Tensors<'_> {
    fn golden(&self) -> Result<Golden, String> {
        let (special, s) = (self.model.spec.special_ids, &self.settings);
        if (special.start, special.end, special.pad) != (s.sot, s.eos, s.pad) {
            return Err(format!(
                "special ids {:?} differ from the model's {:?}",
                (s.sot, s.eos, s.pad),
                (special.start, special.end, special.pad)
            ));
        }
        let (side, width) = (self.model.spec.image_size as usize, self.model.spec.dimensions.embed_dim);
        let (shape, images) = self.tensor("images", Dtype::U8, &[None, Some(side), Some(side), Some(3)])?;
        let count = shape[0];
        let texts = self.texts()?;
        if count == 0 || texts.is_empty() {
            return Err("there are no images or no texts to compare".into());
        }
        let floats = |name, rows| Ok::<_, String>(self.floats(name, &[Some(rows), Some(width)])?.1);
        let probability = match self.has(PROBABILITY) {
            true => Some(self.floats(PROBABILITY, &[Some(count), Some(texts.len())])?.1),
            false => None,
        };
        let mut golden = Golden {
            count,
            images: images.to_vec(),
            image_features: floats("image_features", count)?,
            text_features: floats("text_features", texts.len())?,
            texts,
            logits: None,
            greedy: None,
            beam: None,
            has_image_tokens: self.has("image_tokens"),
            generation: Generation {
                max_tokens: s.seq_len.saturating_sub(1),
                min_tokens: s.min_seq_len.saturating_sub(1),
                beams: s.num_beams,
            },
            probability,
            tokenised: self.tokenised()?,
        };
        if self.model.spec.dimensions.decoder.is_some() {
            self.add_captions(&mut golden)?;
        }
        Ok(golden)
    }

    /// Adds what only a model with a decoder computes.
    fn add_captions(&self, golden: &mut Golden) -> Result<(), String> {
        let (count, d) = (golden.count, &self.model.spec.dimensions);
        if golden.texts.len() != count {
            return Err(format!(
                "{} texts for {count} images: logits need a text per image",
                golden.texts.len()
            ));
        }
        let (shape, values) = self.floats("logits", &[Some(count), None, Some(d.vocab_size)])?;
        let positions = shape[1];
        if positions == 0 || positions >= d.context_length {
            return Err(format!(
                "tensor `logits` has {positions} positions, this model decodes 1 to {}",
                d.context_length - 1
            ));
        }
        golden.logits = Some(GoldenLogits { positions, values });
        if self.has("greedy") {
            golden.greedy = Some(self.captions("greedy", count)?);
        }
        if self.has("beam") {
            if golden.generation.beams == 0 {
                return Err("`num_beams` of the JSON file is 0".into());
            }
            let scores = self.floats("beam_score", &[Some(count)])?.1;
            golden.beam = Some(GoldenBeams { ids: self.captions("beam", count)?, scores });
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.file.has(name)
    }

    fn tensor(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[Option<usize>],
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        self.file.tensor(name, dtype, shape)
    }

    fn floats(&self, name: &str, shape: &[Option<usize>]) -> Result<(Vec<usize>, Vec<f32>), String> {
        self.file.floats(name, shape)
    }

    /// Reads rows of ids and checks that they are within the vocabulary.
    fn ids(&self, name: &str, rows: Option<usize>) -> Result<Vec<Vec<i64>>, String> {
        self.file.ids(name, rows, self.model.spec.dimensions.vocab_size)
    }

    /// Truncates ids after the end token.
    fn up_to_end(&self, ids: &[i64]) -> Vec<i64> {
        let end = ids.iter().position(|id| *id == self.settings.eos).map_or(ids.len(), |at| at + 1);
        ids[..end].to_vec()
    }

    fn texts(&self) -> Result<Vec<Vec<i64>>, String> {
        let texts: Vec<Vec<i64>> = self.ids("text", None)?.iter().map(|row| self.up_to_end(row)).collect();
        let context = self.model.spec.dimensions.context_length;
        match texts.iter().find(|text| text.len() > context) {
            Some(text) => Err(format!("a text of {} ids does not fit the context of {context}", text.len())),
            None => Ok(texts),
        }
    }

    /// Reads the ids of the JSON file's texts.
    fn tokenised(&self) -> Result<Option<Vec<TokenisedText>>, String> {
        if !self.has(TEXT_IDS) {
            return Ok(None);
        }
        let texts = &self.settings.texts;
        let rows = self.ids(TEXT_IDS, Some(texts.len()))?;
        Ok(Some(texts.iter().cloned().zip(rows.iter().map(|row| self.up_to_end(row))).collect()))
    }

    /// Reads generated captions without their start token.
    fn captions(&self, name: &str, count: usize) -> Result<Vec<Vec<i64>>, String> {
        let (s, context) = (&self.settings, self.model.spec.dimensions.context_length);
        if !(2..=context).contains(&s.seq_len) || s.min_seq_len >= s.seq_len {
            return Err(format!(
                "`seq_len` {} and `min_seq_len` {} of the JSON file do not fit the context of {context}",
                s.seq_len, s.min_seq_len
            ));
        }
        let caption = |row: &Vec<i64>| {
            let caption = self.up_to_end(row.get(1..).unwrap_or_default());
            let fits = row[0] == s.sot && (1..s.seq_len).contains(&caption.len());
            fits.then_some(caption)
        };
        let captions: Option<Vec<Vec<i64>>> = self.ids(name, Some(count))?.iter().map(caption).collect();
        captions.ok_or_else(|| {
            format!(
                "a row of tensor `{name}` does not begin with the start token, or is longer than `seq_len`"
            )
        })
    }
}
