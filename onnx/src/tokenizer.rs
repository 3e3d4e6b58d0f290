//! Text to ids and back, with a `tokenizer.json` in the format of Hugging Face's tokenizers.
//!
//! For CoCa and CLIP text is cleaned as in open_clip before the file's own normalizer runs, for a model with [`TextRules`] as they
//! say, for ALBEF as by its authors, for BLIP it is not.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use regex::Regex;
use tokenizers::ModelWrapper;

use crate::{
    checkpoint::tokenizer_files::read_bert,
    clean::{clean, pre_caption},
    model::{Architecture, ModelFolder, SpecialIds, TOKENIZER_FILE, TextCleaning, TextRules},
};

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The model has no tokenizer.
    #[error(
        "model {0} has no tokenizer.json, so it cannot read or write text: put the checkpoint's tokenizer.json, or its vocab.json and merges.txt, next to its weights and export again (of a SigLIP its tokenizer.json, of a BLIP or ALBEF its tokenizer.json or vocab.txt; a checkpoint with CLIP's vocabulary needs none: CLIP's tokenizer is built in)"
    )]
    Missing(PathBuf),
    /// The tokenizer cannot be loaded, fails, or does not fit the model.
    #[error("tokenizer {path}: {what}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Ids of a text, ready for the text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextIds {
    /// Start token, if texts have one, words, end token; of an ALBEF without the end token.
    pub ids: Vec<i64>,
    /// Whether words were dropped to fit the context.
    pub truncated: bool,
}

/// A tokenizer with the model's special ids and context.
///
/// ```no_run
/// use std::path::Path;
///
/// use recaption_onnx::{ModelFolder, tokenizer::Tokenizer};
///
/// let tokenizer = Tokenizer::load(&ModelFolder::open(Path::new("model"))?)?;
/// let ids = tokenizer.encode("A photo of a cat")?.ids;
/// assert_eq!(tokenizer.decode(&ids)?, "a photo of a cat");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialIds,
    context: usize,
    /// Number of the model's entries; a larger id has no embedding.
    entries: usize,
    has_start: bool,
    reading: Reading,
    /// Marks the end of a word in the vocabulary; decoders of byte-level files do not remove it.
    suffix: Option<String>,
}

/// What is done to a text before the file's own rules.
enum Reading {
    /// open_clip's: it is cleaned, and start and end tokens that it spells out are found by open_clip's pattern.
    OpenClip(LiteralSpecials),
    /// Nothing; special tokens that a text spells out are found by the tokenizer, as in transformers.
    Transformers,
    /// It is cleaned as by ALBEF's authors, whose texts have no end token and at most `max_ids` ids.
    Albef {
        /// Longest text, in ids, at least 1.
        max_ids: usize,
    },
    /// It is cleaned; what is left of special tokens that it spells out is found by the tokenizer.
    Cleaned(TextCleaning),
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("special", &self.special)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads a model folder's tokenizer.
    ///
    /// # Errors
    /// When the model has no tokenizer, or the file is malformed or has a larger vocabulary than the model.
    pub fn load(model: &ModelFolder) -> Result<Self, TokenizerError> {
        if !model.has_tokenizer() {
            return Err(TokenizerError::Missing(model.dir.clone()));
        }
        let (d, special) = (&model.spec.dimensions, model.spec.special_ids);
        let path = model.path(TOKENIZER_FILE);
        let sizes = (d.context_length, d.vocab_size);
        match (model.spec.architecture, model.spec.text) {
            (_, Some(TextRules { cleaning, has_start, .. })) if cleaning != TextCleaning::Lower => {
                // mT5's vocabulary has further ids, which a text does not get.
                let inner = open(&path, usize::MAX)?;
                Ok(Self { has_start, ..Self::new(inner, special, sizes, Reading::Cleaned(cleaning)) })
            }
            (Architecture::Coca | Architecture::Clip | Architecture::Siglip, _) => {
                Self::from_file(&path, special, d.context_length, d.vocab_size)
            }
            (Architecture::Blip | Architecture::BlipRetrieval, _) => {
                let inner = open(&path, d.vocab_size)?;
                Ok(Self::new(inner, special, sizes, Reading::Transformers))
            }
            (Architecture::Albef, _) => {
                let most = d.fusion.and_then(|fusion| fusion.max_text_tokens).unwrap_or(d.context_length);
                let reading = Reading::Albef { max_ids: most.clamp(1, d.context_length.max(1)) };
                Ok(Self::new(open(&path, d.vocab_size)?, special, sizes, reading))
            }
        }
    }

    /// Loads a tokenizer for a CoCa or CLIP with `vocab` ids and texts of at most `context` ids.
    ///
    /// # Errors
    /// When the file is missing or malformed, or its vocabulary is larger than `vocab`.
    pub fn from_file(
        path: &Path,
        special: SpecialIds,
        context: usize,
        vocab: usize,
    ) -> Result<Self, TokenizerError> {
        let mut inner = open(path, vocab)?;
        // Special tokens in a text are found by `LiteralSpecials`.
        inner.set_encode_special_tokens(true);
        let literals = LiteralSpecials::new(&inner, special)
            .map_err(|e| TokenizerError::Unusable { path: path.to_owned(), what: e.to_string() })?;
        Ok(Self::new(inner, special, (context, vocab), Reading::OpenClip(literals)))
    }

    /// Loads the tokenizer of an ALBEF checkpoint in `dir`, its `tokenizer.json` or one built from its `vocab.txt`, for a model with
    /// `vocab` ids and texts of at most `max_ids` ids, `[CLS]` included.
    ///
    /// # Errors
    /// When there is none, it is malformed, or its vocabulary is larger than `vocab`.
    pub fn of_albef(
        dir: &Path,
        special: SpecialIds,
        max_ids: usize,
        vocab: usize,
    ) -> Result<Self, TokenizerError> {
        let unusable = |what: String| TokenizerError::Unusable { path: dir.to_owned(), what };
        let bytes = read_bert(dir).map_err(|e| unusable(e.to_string()))?;
        let bytes =
            bytes.ok_or_else(|| unusable("there is neither tokenizer.json nor vocab.txt".to_owned()))?;
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| unusable(e.to_string()))?;
        let reading = Reading::Albef { max_ids: max_ids.max(1) };
        Ok(Self::new(fit(inner, dir, vocab)?, special, (max_ids, vocab), reading))
    }

    fn new(
        inner: tokenizers::Tokenizer,
        special: SpecialIds,
        (context, entries): (usize, usize),
        reading: Reading,
    ) -> Self {
        let suffix = match inner.get_model() {
            ModelWrapper::BPE(bpe) => bpe.end_of_word_suffix.clone().filter(|s| !s.is_empty()),
            _ => None,
        };
        Self { inner, special, context, entries, has_start: true, reading, suffix }
    }

    /// Returns the ids of `text` between start and end token, or before the end token where texts have no start, truncated to the
    /// context. For CoCa and CLIP it is cleaned as open_clip does it, for ALBEF as its authors do, who leave out the end token and
    /// truncate further.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<TextIds, TokenizerError> {
        let mut words = Vec::new();
        match &self.reading {
            Reading::Transformers => self.encode_words(text, &mut words)?,
            Reading::Albef { max_ids } => {
                let (cleaned, is_cut) = pre_caption(text);
                self.encode_words(&cleaned, &mut words)?;
                let truncated = is_cut || words.len() > max_ids - 1;
                words.truncate(max_ids - 1);
                return Ok(TextIds { ids: [&[self.special.start], words.as_slice()].concat(), truncated });
            }
            Reading::Cleaned(cleaning) => {
                self.encode_words(&clean(text, *cleaning), &mut words)?;
                words.retain(|id| (0..self.entries as i64).contains(id));
            }
            Reading::OpenClip(literals) => {
                let cleaned = clean(text, TextCleaning::Lower);
                let mut from = 0;
                for (place, id) in literals.find(&cleaned) {
                    self.encode_words(&cleaned[from..place.start], &mut words)?;
                    words.push(id);
                    from = place.end;
                }
                self.encode_words(&cleaned[from..], &mut words)?;
            }
        }
        let start: &[i64] = if self.has_start { &[self.special.start] } else { &[] };
        let room = self.context - 1 - start.len();
        let truncated = words.len() > room;
        words.truncate(room);
        let ids = [start, words.as_slice(), &[self.special.end]].concat();
        Ok(TextIds { ids, truncated })
    }

    fn encode_words(&self, text: &str, ids: &mut Vec<i64>) -> Result<(), TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| TokenizerError::Unusable {
            path: TOKENIZER_FILE.into(),
            what: format!("cannot encode a text of {} bytes: {e}", text.len()),
        })?;
        ids.extend(encoding.get_ids().iter().map(|id| i64::from(*id)));
        Ok(())
    }

    /// Returns the text of generated ids, without special ids and with tidied white space.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[i64]) -> Result<String, TokenizerError> {
        let special = [self.special.pad, self.special.start, self.special.end];
        let words: Vec<u32> =
            ids.iter().filter(|id| !special.contains(id)).filter_map(|id| u32::try_from(*id).ok()).collect();
        let text = self.inner.decode(&words, true).map_err(|e| TokenizerError::Unusable {
            path: TOKENIZER_FILE.into(),
            what: format!("cannot decode {} ids: {e}", ids.len()),
        })?;
        match &self.suffix {
            Some(suffix) => Ok(tidy(&text.replace(suffix.as_str(), " "))),
            None => Ok(tidy(&text)),
        }
    }
}

/// Opens a tokenizer file for a model with `vocab` ids.
fn open(path: &Path, vocab: usize) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let unusable = |what: String| TokenizerError::Unusable { path: path.to_owned(), what };
    fit(tokenizers::Tokenizer::from_file(path).map_err(|e| unusable(e.to_string()))?, path, vocab)
}

/// Checks that a tokenizer fits a model with `vocab` ids, and turns off its padding and truncation.
fn fit(
    mut inner: tokenizers::Tokenizer,
    path: &Path,
    vocab: usize,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let unusable = |what: String| TokenizerError::Unusable { path: path.to_owned(), what };
    // Texts are truncated and padded elsewhere, whatever the file's settings are.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| unusable(e.to_string()))?;
    let size = inner.get_vocab_size(true);
    if size > vocab {
        return Err(unusable(format!("the vocabulary has {size} entries, the model's has {vocab}")));
    }
    Ok(inner)
}

/// Finds start and end tokens that a text spells out. open_clip reads them as the tokens, but only where its pattern matches at
/// their first character: not after other punctuation.
struct LiteralSpecials {
    names: Vec<(String, i64)>,
    pattern: Regex,
}

impl LiteralSpecials {
    fn new(inner: &tokenizers::Tokenizer, special: SpecialIds) -> Result<Self, regex::Error> {
        let name = |id: i64| u32::try_from(id).ok().and_then(|id| inner.id_to_token(id));
        let names: Vec<(String, i64)> =
            [special.start, special.end].into_iter().filter_map(|id| Some((name(id)?, id))).collect();
        let escaped: Vec<String> = names.iter().map(|(name, _)| regex::escape(name)).collect();
        let punctuation = r"[^\s\p{L}\p{N}\u{345}]+".to_owned();
        let pattern = Regex::new(&[&escaped[..], &[punctuation]].concat().join("|"))?;
        Ok(Self { names, pattern })
    }

    /// Returns ranges and ids of the tokens in a cleaned text.
    fn find(&self, text: &str) -> Vec<(std::ops::Range<usize>, i64)> {
        if !self.names.iter().any(|(name, _)| text.contains(name.as_str())) {
            return Vec::new();
        }
        let id_of = |found: &str| self.names.iter().find(|(name, _)| name == found).map(|(_, id)| *id);
        self.pattern.find_iter(text).filter_map(|m| Some((m.range(), id_of(m.as_str())?))).collect()
    }
}

/// Returns the text with one space between words, none before `, . ; : ! ?`, and trimmed. CLIP's decoder yields "left , a".
pub(crate) fn tidy(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() && !word.starts_with([',', '.', ';', ':', '!', '?']) {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::tidy;

    #[test]
    fn white_space_is_tidied() {
        assert_eq!(tidy("  a  cat , a dog\t. ok !"), "a cat, a dog. ok!");
        assert_eq!(tidy(" . "), ".");
        assert_eq!(tidy(""), "");
    }
}
