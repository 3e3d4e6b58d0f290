//! `text_encoder.onnx`: token ids -> contrastive features.

use std::collections::BTreeMap;

use ort::{session::Session, value::TensorRef};

use super::{error::RuntimeError, options::SessionOptions, session};
use crate::model::{Architecture, ModelFolder, TEXT_ENCODER_FILE, TEXT_TOKENS};

/// Texts are padded to a multiple of this, so that a text's padded length, and so its row, does not depend on other texts.
const LENGTH_STEP: usize = 8;
/// Largest number of texts per call.
const MAX_BATCH: usize = 64;

/// The text tower.
#[derive(Debug)]
pub struct TextEncoder {
    session: Session,
    context: usize,
    pad: i64,
    /// Padding ids that must follow a text: one for a CoCa, whose released masks show it, none for a CLIP.
    padding: usize,
    /// Whether texts are padded to the context's length, because padding is read.
    is_padded: bool,
    embed_dim: usize,
    /// Texts per call, at most: [`MAX_BATCH`], less after memory ran out.
    batch: usize,
}

impl TextEncoder {
    /// Loads the graph.
    ///
    /// # Errors
    /// When the model has no text encoder (a BLIP captioner), or the library or the graph cannot be loaded.
    pub fn load(model: &ModelFolder, options: &SessionOptions) -> Result<Self, RuntimeError> {
        model.require_scores()?;
        Ok(Self {
            session: session::create(model, TEXT_ENCODER_FILE, options)?,
            context: model.spec.dimensions.context_length,
            pad: model.spec.special_ids.pad,
            padding: match model.spec.architecture {
                Architecture::Coca => 1,
                Architecture::Clip
                | Architecture::Siglip
                | Architecture::Blip
                | Architecture::BlipRetrieval
                | Architecture::Albef => 0,
            },
            is_padded: model.spec.text.is_some_and(|rules| rules.is_padded),
            embed_dim: model.spec.dimensions.embed_dim,
            batch: MAX_BATCH,
        })
    }

    /// Returns the width of a feature vector, `E`.
    #[must_use]
    pub fn embed_dim(&self) -> usize {
        self.embed_dim
    }

    /// Returns the length that a text of `ids` ids is padded to.
    fn padded_length(&self, ids: usize) -> usize {
        if self.is_padded {
            return self.context;
        }
        (ids + self.padding).next_multiple_of(LENGTH_STEP).min(self.context)
    }

    /// Encodes texts, each with its start and end ids and without padding, at most the context length long.
    /// Returns L2-normalised features `[N, E]`, row-major, in the order given.
    ///
    /// # Errors
    /// When a text is empty or too long, or the graph fails.
    pub fn encode(&mut self, texts: &[&[i64]]) -> Result<Vec<f32>, RuntimeError> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, text) in texts.iter().enumerate() {
            if text.is_empty() || text.len() > self.context {
                return Err(RuntimeError::Input(format!(
                    "a text of {} ids does not fit the context of {}",
                    text.len(),
                    self.context
                )));
            }
            groups.entry(self.padded_length(text.len())).or_default().push(i);
        }
        let mut features = vec![0.0; texts.len() * self.embed_dim];
        for (length, members) in groups {
            let mut rest = members.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(self.batch.min(rest.len()));
                match self.encode_group(texts, now, length, &mut features) {
                    Ok(()) => rest = later,
                    Err(error) if error.is_out_of_memory() && now.len() > 1 => {
                        self.batch = now.len() / 2;
                        tracing::warn!(texts = self.batch, %error, "out of memory; halved the text encoder's batch");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(features)
    }

    /// Returns the tokens of padded texts of one length, f32 `[N, T, W]`, of a model whose graph returns them; for comparisons.
    ///
    /// # Errors
    /// When lengths differ, the graph has no such output, or it fails.
    pub(crate) fn text_tokens(&mut self, texts: &[Vec<i64>]) -> Result<Vec<f32>, RuntimeError> {
        let length = texts.first().map_or(0, Vec::len);
        if texts.iter().any(|text| text.len() != length) {
            return Err(RuntimeError::Input("texts of several lengths have no tokens together".into()));
        }
        let failed = |source| RuntimeError::Run { graph: "text encoder", rows: texts.len(), source };
        let ids = texts.concat();
        let input = TensorRef::from_array_view(([texts.len(), length], ids.as_slice())).map_err(failed)?;
        let outputs = self.session.run(ort::inputs!["ids" => input]).map_err(failed)?;
        let tokens = outputs
            .get(TEXT_TOKENS)
            .ok_or_else(|| RuntimeError::Input(format!("the text encoder has no output `{TEXT_TOKENS}`")))?;
        Ok(tokens.try_extract_tensor::<f32>().map_err(failed)?.1.to_vec())
    }

    fn encode_group(
        &mut self,
        texts: &[&[i64]],
        members: &[usize],
        length: usize,
        features: &mut [f32],
    ) -> Result<(), RuntimeError> {
        let mut ids = vec![self.pad; members.len() * length];
        for (row, i) in ids.chunks_exact_mut(length).zip(members) {
            row[..texts[*i].len()].copy_from_slice(texts[*i]);
        }
        let failed = |source| RuntimeError::Run { graph: "text encoder", rows: members.len(), source };
        let input = TensorRef::from_array_view(([members.len(), length], ids.as_slice())).map_err(failed)?;
        let inputs = ort::inputs!["ids" => input];
        let outputs = self.session.run(inputs).map_err(failed)?;
        let (_, rows) = outputs["text_features"].try_extract_tensor::<f32>().map_err(failed)?;
        for (row, i) in rows.chunks_exact(self.embed_dim).zip(members) {
            features[i * self.embed_dim..(i + 1) * self.embed_dim].copy_from_slice(row);
        }
        Ok(())
    }
}
