//! `fusion.onnx`: image tokens and token ids -> whether image and text match (ITM).

use ort::{session::Session, value::TensorRef};

use super::{error::RuntimeError, options::SessionOptions, session};
use crate::model::{FUSION_FILE, FusionDimensions, IMAGE_TOKENS, ITM_LOGITS, ModelFolder};

/// Which token a text begins with where it is matched with an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatchStart {
    /// `[ENC]`, with which the authors of BLIP train and evaluate; `[CLS]` of an ALBEF, which has no other.
    #[default]
    Enc,
    /// `[CLS]`, as transformers and the authors' demonstration compute it.
    Cls,
}

/// A text encoder that attends to an image, with its matching head.
#[derive(Debug)]
pub struct Matcher {
    session: Session,
    sizes: FusionDimensions,
    context: usize,
    pad: i64,
    start: i64,
}

impl Matcher {
    /// Loads the graph, for texts that begin with `start`.
    ///
    /// # Errors
    /// When the model has no matching head, or the library or the graph cannot be loaded.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        start: MatchStart,
    ) -> Result<Self, RuntimeError> {
        let sizes = model.fusion()?;
        Ok(Self {
            session: session::create(model, FUSION_FILE, options)?,
            sizes,
            context: model.spec.dimensions.context_length,
            pad: model.spec.special_ids.pad,
            start: match start {
                MatchStart::Enc => sizes.enc_id,
                MatchStart::Cls => model.spec.special_ids.start,
            },
        })
    }

    /// Returns the two logits of every text with its image, no match and match, in the order given. `tokens` f32 `[N, Q, W]` are
    /// those of [`ImageEncoder`](super::ImageEncoder), `texts` the same number for every image, image by image, each with its start and end
    /// ids and without padding. The first id of a text is replaced by the start that was chosen.
    ///
    /// # Errors
    /// When numbers do not fit, a text is empty or too long, or the graph fails.
    pub fn logits(&mut self, tokens: &[f32], texts: &[&[i64]]) -> Result<Vec<[f32; 2]>, RuntimeError> {
        let FusionDimensions { image_tokens, image_width, .. } = self.sizes;
        let images = tokens.len() / (image_tokens * image_width);
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let fits = images > 0
            && tokens.len() == images * image_tokens * image_width
            && !texts.is_empty()
            && texts.len().is_multiple_of(images);
        if !fits || longest > self.context || texts.iter().any(|text| text.is_empty()) {
            return Err(RuntimeError::Input(format!(
                "{} texts of at most {longest} ids do not fit {images} images and a context of {}",
                texts.len(),
                self.context
            )));
        }
        let mut ids = vec![self.pad; texts.len() * longest];
        for (row, text) in ids.chunks_exact_mut(longest).zip(texts) {
            row[..text.len()].copy_from_slice(text);
            row[0] = self.start;
        }
        let failed = |source| RuntimeError::Run { graph: "fusion", rows: texts.len(), source };
        let image =
            TensorRef::from_array_view(([images, image_tokens, image_width], tokens)).map_err(failed)?;
        let ids = TensorRef::from_array_view(([texts.len(), longest], ids.as_slice())).map_err(failed)?;
        let outputs = self.session.run(ort::inputs!["ids" => ids, IMAGE_TOKENS => image]).map_err(failed)?;
        let (_, logits) = outputs[ITM_LOGITS].try_extract_tensor::<f32>().map_err(failed)?;
        Ok(logits.as_chunks::<2>().0.to_vec())
    }
}
