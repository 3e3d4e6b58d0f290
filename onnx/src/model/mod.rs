//! A model folder: `model.json`, `tokenizer.json`, the graphs (three of a CoCa, two of a CLIP or a BLIP captioner) and their
//! weights.

mod architecture;
mod dimensions;
mod text;

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use recaption_schemas::{Preprocess, sha256_hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::{
    architecture::{Architecture, GenerationRules, Precision},
    dimensions::{DecoderDimensions, Dimensions, FusionDimensions},
    text::{Sigmoid, TextCleaning, TextRules},
};
use crate::checkpoint::Normalisation;

/// Newest version of `model.json` and of the graphs' inputs and outputs that is read, see [`Architecture::format_version`].
const NEWEST_FORMAT: u32 = 2;
/// Largest side of a model's input image, pixels; far beyond real models.
pub(crate) const MAX_IMAGE_SIZE: u32 = 8192;
/// Maximal length of a BLIP's caption where none is set, in generated tokens.
const BLIP_CAPTION_TOKENS: usize = 19;
/// File with the description of the model.
pub const MODEL_FILE: &str = "model.json";
/// File of the tokenizer, optional.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
/// File of the image encoder's graph.
pub(crate) const IMAGE_ENCODER_FILE: &str = "image_encoder.onnx";
/// File of the text encoder's graph.
pub(crate) const TEXT_ENCODER_FILE: &str = "text_encoder.onnx";
/// File of the graph that matches texts with images.
pub(crate) const FUSION_FILE: &str = "fusion.onnx";
/// File of the graph that predicts masked words, of an ALBEF; nothing but `verify` reads it.
pub(crate) const MLM_FILE: &str = "mlm.onnx";
/// File of the decoder's graph.
pub(crate) const DECODER_FILE: &str = "decoder.onnx";

/// Output of a BLIP's image encoder: the tokens that texts attend to.
pub(crate) const IMAGE_TOKENS: &str = "image_tokens";
/// Output of a BLIP's text encoder: a text's tokens, for comparisons.
pub(crate) const TEXT_TOKENS: &str = "text_tokens";
/// Output of the graph that matches texts with images: no match, match.
pub(crate) const ITM_LOGITS: &str = "itm_logits";
/// Output of the graph that predicts masked words.
pub(crate) const MLM_LOGITS: &str = "mlm_logits";
/// Name of the batch dimension in graphs.
pub(crate) const IMAGES: &str = "images";

/// Returns the input and output name of a cross-attention's keys.
pub(crate) fn cross_key(layer: usize) -> String {
    format!("cross_key_{layer}")
}
/// Returns the input and output name of a cross-attention's values.
pub(crate) fn cross_value(layer: usize) -> String {
    format!("cross_value_{layer}")
}
/// Returns the input name of a self-attention's cached keys.
pub(crate) fn past_key(layer: usize) -> String {
    format!("past_key_{layer}")
}
/// Returns the input name of a self-attention's cached values.
pub(crate) fn past_value(layer: usize) -> String {
    format!("past_value_{layer}")
}
/// Returns the output name of a self-attention's cached keys.
pub(crate) fn present_key(layer: usize) -> String {
    format!("present_key_{layer}")
}
/// Returns the output name of a self-attention's cached values.
pub(crate) fn present_value(layer: usize) -> String {
    format!("present_value_{layer}")
}

/// Returns the size of a head in the graphs: the next multiple of 8, which ONNX Runtime's GroupQueryAttention requires.
pub(crate) fn padded_head_dim(head_dim: usize) -> usize {
    head_dim.next_multiple_of(8)
}

/// Lengths of captions, generated tokens, end token included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptionTokens {
    /// The maximal length where none is set.
    pub default: usize,
    /// The largest maximal length that fits the context.
    pub largest: usize,
}

/// Ids of special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialIds {
    /// Padding.
    pub pad: i64,
    /// Start of text; the end token's id where texts have none, see [`TextRules::has_start`].
    pub start: i64,
    /// End of text.
    pub end: i64,
}

impl SpecialIds {
    /// Returns the ids by CLIP's rule, which CoCa and CLIP follow: padding is 0, start and end are the last two.
    ///
    /// ```
    /// let ids = recaption_onnx::model::SpecialIds::of_vocabulary(49408);
    /// assert_eq!((ids.pad, ids.start, ids.end), (0, 49406, 49407));
    /// ```
    #[must_use]
    pub fn of_vocabulary(size: usize) -> Self {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        Self { pad: 0, start: size - 2, end: size - 1 }
    }
}

/// One file of a model folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Name in the folder.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, hex.
    pub sha256: String,
}

/// Contents of `model.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Version of the format, see [`Architecture::format_version`]; at least 2 with text rules.
    pub format_version: u32,
    /// CoCa, CLIP, SigLIP, BLIP or ALBEF.
    pub architecture: Architecture,
    /// Sizes of inputs and outputs.
    pub dimensions: Dimensions,
    /// Ids of special tokens.
    pub special_ids: SpecialIds,
    /// Side of the input image, pixels.
    pub image_size: u32,
    /// How images are resized to it.
    pub preprocessing: Preprocess,
    /// How pixels are normalised, which the image encoder's weights include; since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalisation: Option<Normalisation>,
    /// How texts become ids, where it is not CLIP's or BLIP's way; since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextRules>,
    /// Scale and bias of the probability of a match, of a SigLIP; since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigmoid: Option<Sigmoid>,
    /// Precision of the graphs.
    pub precision: Precision,
    /// ONNX operator set of the graphs.
    pub opset: i64,
    /// SHA-256 of the checkpoint's weights file, hex.
    pub source_sha256: String,
    /// Number of parameters of the checkpoint.
    pub parameters: u64,
    /// The other files of the folder.
    pub files: Vec<ModelFile>,
}

/// Why a model folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is missing or unreadable.
    #[error("model {path}: {source}; expected a folder made by `recaption export`")]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// `model.json` is malformed or of another version.
    #[error("model {path}: {what}")]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Captions were requested of a model without a decoder.
    #[error(
        "model {0} is a CLIP or another model that scores captions but cannot generate them: use it as --scorer, and a CoCa or a BLIP captioner as --model"
    )]
    NoDecoder(PathBuf),
    /// Matching was requested of a model without its head.
    #[error(
        "model {0} does not match texts with images (ITM): of the supported models BlipForImageTextRetrieval and ALBEF do"
    )]
    NoMatching(PathBuf),
    /// Similarities were requested of a model that has none.
    #[error(
        "model {0} is a BLIP captioner, which has no embeddings to compute similarity with: set another model as scorer (`model.scorer`, --scorer MODEL): a CLIP, a CoCa, an ALBEF or a BlipForImageTextRetrieval"
    )]
    NoEmbeddings(PathBuf),
}

/// An opened model folder, checked for completeness.
///
/// ```no_run
/// use std::path::Path;
///
/// use recaption_onnx::ModelFolder;
///
/// let model = ModelFolder::open(Path::new("model"))?;
/// println!("{} in {}", model.spec.architecture.as_str(), model.spec.precision);
/// # Ok::<(), recaption_onnx::ModelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The folder.
    pub dir: PathBuf,
    /// Contents of `model.json`.
    pub spec: ModelSpec,
    /// SHA-256 of `model.json`, which holds the digests of everything else.
    pub digest: String,
}

/// Returns the SHA-256 of a file, hexadecimal.
fn digest(path: &Path) -> std::io::Result<String> {
    let (mut hasher, mut file) = (Sha256::new(), std::fs::File::open(path)?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(recaption_schemas::hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

impl ModelFolder {
    /// Reads `model.json` and checks that every file exists with its size.
    ///
    /// # Errors
    /// When a file is missing or has another size, or `model.json` is malformed or of another version.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(MODEL_FILE);
        let text = std::fs::read(&path).map_err(|source| ModelError::Io { path: path.clone(), source })?;
        let bad = |what: String| ModelError::Spec { path: path.clone(), what };
        let version = serde_json::from_slice::<serde_json::Value>(&text)
            .map_err(|e| bad(format!("not valid JSON: {e}")))?
            .get("format_version")
            .and_then(serde_json::Value::as_u64);
        if !version.is_some_and(|version| (1..=u64::from(NEWEST_FORMAT)).contains(&version)) {
            return Err(bad(format!(
                "format_version is {}, this build reads 1 to {NEWEST_FORMAT}: export the model again",
                version.map_or("missing".to_owned(), |v| v.to_string())
            )));
        }
        let spec: ModelSpec = serde_json::from_slice(&text).map_err(|e| bad(format!("malformed: {e}")))?;
        let has_sizes = match spec.architecture {
            Architecture::Clip | Architecture::Siglip => true,
            Architecture::Coca | Architecture::Blip => spec.dimensions.decoder.is_some(),
            Architecture::BlipRetrieval | Architecture::Albef => spec.dimensions.fusion.is_some(),
        };
        if !has_sizes {
            let architecture = spec.architecture.as_str();
            return Err(bad(format!("malformed: a {architecture} without sizes of its text graphs")));
        }
        let sides = [("image_size", spec.image_size), ("preprocessing.size", spec.preprocessing.size)];
        if let Some((name, side)) = sides.into_iter().find(|(_, side)| !(1..=MAX_IMAGE_SIZE).contains(side)) {
            return Err(bad(format!(
                "{name} is {side} pixels, but must be 1 to {MAX_IMAGE_SIZE}: export the model again"
            )));
        }
        for file in &spec.files {
            let path = dir.join(&file.name);
            if Path::new(&file.name).components().count() != 1 {
                return Err(bad(format!("file name {:?} is outside the folder", file.name)));
            }
            let size = std::fs::metadata(&path)
                .map_err(|source| ModelError::Io { path: path.clone(), source })?
                .len();
            if size != file.size {
                return Err(bad(format!(
                    "{} has {size} bytes instead of {}: export the model again",
                    file.name, file.size
                )));
            }
        }
        Ok(Self { dir: dir.to_owned(), digest: sha256_hex(&text), spec })
    }

    /// Returns whether each file still has the contents that the export wrote, in the order of `model.json`. Reads all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn unchanged(&self) -> Result<Vec<bool>, ModelError> {
        let is_unchanged = |file: &ModelFile| {
            let path = self.path(&file.name);
            let digest = digest(&path).map_err(|source| ModelError::Io { path, source })?;
            Ok(digest == file.sha256)
        };
        self.spec.files.iter().map(is_unchanged).collect()
    }

    /// Returns the sizes of the decoder.
    ///
    /// # Errors
    /// [`ModelError::NoDecoder`] for a model that scores only.
    pub fn decoder(&self) -> Result<DecoderDimensions, ModelError> {
        self.spec.dimensions.decoder.ok_or_else(|| ModelError::NoDecoder(self.dir.clone()))
    }

    /// Returns the sizes of the graph that matches texts with images.
    ///
    /// # Errors
    /// [`ModelError::NoMatching`] for all but a BLIP that scores and an ALBEF.
    pub fn fusion(&self) -> Result<FusionDimensions, ModelError> {
        self.spec.dimensions.fusion.ok_or_else(|| ModelError::NoMatching(self.dir.clone()))
    }

    /// Checks that the model can score captions.
    ///
    /// # Errors
    /// [`ModelError::NoEmbeddings`] for a BLIP captioner.
    pub fn require_scores(&self) -> Result<(), ModelError> {
        if self.spec.architecture.scores() { Ok(()) } else { Err(ModelError::NoEmbeddings(self.dir.clone())) }
    }

    /// Returns how many tokens a caption may have after a prompt of `prompt` tokens: the number where none is set, and the largest
    /// one. The first is the largest, but for a BLIP, whose context has room for hundreds of tokens: there it is that of
    /// transformers' `max_length` = 20, which counts the start token.
    #[must_use]
    pub fn caption_tokens(&self, prompt: usize) -> CaptionTokens {
        let largest = self.spec.dimensions.context_length.saturating_sub(1 + prompt);
        let default = match self.spec.architecture {
            Architecture::Coca | Architecture::Clip | Architecture::Siglip => largest,
            Architecture::Blip | Architecture::BlipRetrieval | Architecture::Albef => {
                BLIP_CAPTION_TOKENS.min(largest)
            }
        };
        CaptionTokens { default, largest }
    }

    /// Returns the path of one of its files.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns whether the model has a tokenizer, which captions require.
    #[must_use]
    pub fn has_tokenizer(&self) -> bool {
        self.spec.files.iter().any(|f| f.name == TOKENIZER_FILE)
    }
}
