//! How a text becomes ids: the tokenizer that `text_cfg` names, and what is done to a text before it.
//!
//! open_clip loads the tokenizer by its name, with transformers. Here a checkpoint brings it as `tokenizer.json`, and the name says
//! which of its entries begin, end and pad a text.

use serde_json::{Map, Value};

use super::section::{Parsed, Section};
use crate::model::{TextCleaning, TextRules};

/// Families of tokenizers, by the special entries that a text gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerFamily {
    /// CLIP's: start and end are the last two entries, padding is 0.
    Clip,
    /// SigLIP's SentencePiece vocabularies: `</s>` ends a text and pads it.
    Siglip,
    /// Gemma's, of SigLIP 2: `<eos>`, `<pad>`.
    Gemma,
    /// BERT's, of CLIPA: `[CLS]`, `[SEP]`, `[PAD]`.
    Bert,
    /// XLM-V's, of MetaCLIP's multilingual models: `<s>`, `</s>`, `<pad>`.
    XlmV,
    /// mT5's: `</s>`, `<pad>`.
    Mt5,
}

/// Special entries of a family and their ids in the vocabulary that it is named after.
#[derive(Clone, Copy, Debug)]
pub(in crate::checkpoint) struct SpecialEntries {
    /// Begins a text, if anything does.
    pub(in crate::checkpoint) start: Option<(&'static str, i64)>,
    /// Ends a text.
    pub(in crate::checkpoint) end: (&'static str, i64),
    /// Pads a text.
    pub(in crate::checkpoint) pad: (&'static str, i64),
}

impl TokenizerFamily {
    /// Returns the special entries; `None` for CLIP's, which follow from the vocabulary's size.
    pub(in crate::checkpoint) fn special_entries(self) -> Option<SpecialEntries> {
        let (start, end, pad) = match self {
            Self::Clip => return None,
            Self::Siglip => (None, ("</s>", 1), ("</s>", 1)),
            Self::Gemma => (None, ("<eos>", 1), ("<pad>", 0)),
            Self::Bert => (Some(("[CLS]", 101)), ("[SEP]", 102), ("[PAD]", 0)),
            Self::XlmV => (Some(("<s>", 0)), ("</s>", 2), ("<pad>", 1)),
            Self::Mt5 => (None, ("</s>", 1), ("<pad>", 0)),
        };
        Some(SpecialEntries { start, end, pad })
    }

    /// Returns the family of a tokenizer by the name that open_clip's configurations have.
    fn of_name(name: &str) -> Option<Self> {
        match name {
            "bert-base-uncased" | "google-bert/bert-base-uncased" => Some(Self::Bert),
            "facebook/xlm-v-base" => Some(Self::XlmV),
            "google/mt5-base" => Some(Self::Mt5),
            name if name.contains("SigLIP2") => Some(Self::Gemma),
            name if name.contains("SigLIP") => Some(Self::Siglip),
            _ => None,
        }
    }
}

/// How a text becomes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextTokens {
    /// Which special entries it gets.
    pub family: TokenizerFamily,
    /// What is done to it before the tokenizer.
    pub cleaning: TextCleaning,
    /// Whether the end token is replaced with id 0 (`strip_sep_token`).
    pub strips_end: bool,
}

impl TextTokens {
    /// CLIP's.
    pub(in crate::checkpoint) const CLIP: Self =
        Self { family: TokenizerFamily::Clip, cleaning: TextRules::CLIP.cleaning, strips_end: false };
}

/// Parses the tokenizer's keys of a CLIP's `text_cfg`.
pub(super) fn parse(s: &Section<'_>) -> Parsed<TextTokens> {
    s.require(&[("tokenizer_mode", vec![Value::Null])])?;
    let Some(name) = s.get("hf_tokenizer_name") else {
        // Other text cleaning gives other ids, which nothing would detect later.
        s.require(&[("tokenizer_kwargs", vec![Value::Null, Value::Object(Map::new())])])?;
        return Ok(TextTokens::CLIP);
    };
    let family = name.as_str().and_then(TokenizerFamily::of_name).ok_or_else(|| {
        s.unsupported(
            "hf_tokenizer_name",
            name,
            "none (CLIP's), one of SigLIP or SigLIP 2, bert-base-uncased, facebook/xlm-v-base or google/mt5-base",
        )
    })?;
    let mut tokens = TextTokens { family, cleaning: TextCleaning::Whitespace, strips_end: false };
    let options = match s.get("tokenizer_kwargs") {
        None => return Ok(tokens),
        Some(Value::Object(options)) => Section::new("text_cfg.tokenizer_kwargs", options),
        Some(other) => return Err(s.unsupported("tokenizer_kwargs", other, "an object")),
    };
    tokens.cleaning = match options.get("clean").map(|v| (v, v.as_str())) {
        None | Some((_, Some("whitespace"))) => TextCleaning::Whitespace,
        Some((_, Some("canonicalize"))) => TextCleaning::Canonicalize,
        Some((v, _)) => return Err(options.unsupported("clean", v, "canonicalize or whitespace")),
    };
    tokens.strips_end = options.flag("strip_sep_token", false)?;
    if tokens.strips_end && family != TokenizerFamily::Bert {
        return Err(
            "`text_cfg.tokenizer_kwargs.strip_sep_token` is supported for BERT's tokenizer only".into()
        );
    }
    options.finish()?;
    Ok(tokens)
}
