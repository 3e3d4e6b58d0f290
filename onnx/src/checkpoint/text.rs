//! What `model.json` says of a model's texts and of its loss: special ids, text rules, SigLIP's scale and bias.

use serde_json::Value;

use super::{
    Checkpoint,
    config::{TextTokens, TokenizerFamily},
    error::CheckpointError,
    files, tokenizer_files,
};
use crate::model::{Sigmoid, SpecialIds, TextRules};

/// File with the names of the special entries, as transformers writes it.
const TOKENIZER_SETTINGS: &str = "tokenizer_config.json";

impl Checkpoint {
    /// Returns the ids of padding, start and end. Where texts have no start token, its id is the end token's.
    ///
    /// # Errors
    /// When the tokenizer is malformed or lacks one of the entries.
    pub fn special_ids(&self) -> Result<SpecialIds, CheckpointError> {
        let text = &self.config.text;
        let Some(entries) = text.tokens.family.special_entries() else {
            return Ok(SpecialIds::of_vocabulary(text.vocab_size));
        };
        let path = self.dir.join(files::TOKENIZER);
        let bad = |what: String| CheckpointError::Vocabulary { path: path.clone(), what };
        let tokenizer = match self.tokenizer()? {
            None => None,
            Some(bytes) => {
                Some(tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| bad(format!("malformed: {e}")))?)
            }
        };
        let id = |(name, usual): (&str, i64)| match &tokenizer {
            None => Ok(usual),
            Some(tokenizer) => match tokenizer.token_to_id(name).map(i64::from) {
                Some(id) if id < text.vocab_size as i64 => Ok(id),
                Some(id) => Err(bad(format!(
                    "the id of `{name}`, {id}, is beyond the model's {} entries",
                    text.vocab_size
                ))),
                None => Err(bad(format!("there is no `{name}`, as the model's tokenizer has it"))),
            },
        };
        let end = id(entries.end)?;
        let start = entries.start.map_or(Ok(end), id)?;
        let pad = match self.configured_padding()? {
            Some(name) => id((&name, entries.pad.1))?,
            None => id(entries.pad)?,
        };
        Ok(SpecialIds { pad, start, end: if text.tokens.strips_end { 0 } else { end } })
    }

    /// Returns the padding that `tokenizer_config.json` names, if it is there.
    fn configured_padding(&self) -> Result<Option<String>, CheckpointError> {
        let path = self.dir.join(TOKENIZER_SETTINGS);
        let Some(bytes) = tokenizer_files::optional(&path)? else { return Ok(None) };
        let settings: Value = serde_json::from_slice(&bytes)
            .map_err(|e| CheckpointError::Vocabulary { path, what: format!("not valid JSON: {e}") })?;
        let name = match settings.get("pad_token") {
            Some(Value::Object(entry)) => entry.get("content"),
            entry => entry,
        };
        Ok(name.and_then(Value::as_str).map(str::to_owned))
    }

    /// Returns how texts become ids, where it is not CLIP's way.
    #[must_use]
    pub fn text_rules(&self) -> Option<TextRules> {
        let TextTokens { family, cleaning, .. } = self.config.text.tokens;
        let has_start = match family {
            TokenizerFamily::Clip => true,
            family => family.special_entries().is_some_and(|entries| entries.start.is_some()),
        };
        let rules = TextRules { cleaning, has_start, is_padded: self.config.text.reads_padding() };
        (rules != TextRules::CLIP).then_some(rules)
    }

    /// Returns scale and bias of SigLIP's probability; `None` for a model without `logit_bias`.
    ///
    /// # Errors
    /// When the tensors are malformed.
    pub fn sigmoid(&self) -> Result<Option<Sigmoid>, CheckpointError> {
        let scalar = |name: &str| -> Result<Option<f32>, CheckpointError> {
            if !self.tensors.contains(name) {
                return Ok(None);
            }
            Ok(self.tensors.get(name, &[])?.first().copied())
        };
        let (scale, bias) = (scalar("logit_scale")?, scalar("logit_bias")?);
        Ok(scale.zip(bias).map(|(scale, bias)| Sigmoid { scale: f64::from(scale).exp() as f32, bias }))
    }
}
