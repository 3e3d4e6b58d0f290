//! `mlm.onnx`: image tokens and texts with masked words -> logits of every word at every place (MLM).

use ort::{session::Session, value::TensorRef};

use super::{error::RuntimeError, options::SessionOptions, session};
use crate::model::{FusionDimensions, IMAGE_TOKENS, MLM_FILE, MLM_LOGITS, ModelFolder};

/// A text encoder that attends to an image, with the head that predicts masked words. For comparisons.
#[derive(Debug)]
pub(crate) struct WordPredictor {
    session: Session,
    sizes: FusionDimensions,
}

impl WordPredictor {
    /// Loads the graph.
    ///
    /// # Errors
    /// When the model has none, or the library or the graph cannot be loaded.
    pub(crate) fn load(model: &ModelFolder, options: &SessionOptions) -> Result<Self, RuntimeError> {
        Ok(Self { session: session::create(model, MLM_FILE, options)?, sizes: model.fusion()? })
    }

    /// Returns logits f32 `[N, T, V]`, row-major. `tokens` f32 `[N, Q, W]` are an image encoder's, `ids` and `mask` `[N, T]` the texts', in
    /// which the mask is 1 for tokens and 0 for padding.
    ///
    /// # Errors
    /// When the graph fails, also when numbers do not fit.
    pub(crate) fn logits(
        &mut self,
        tokens: &[f32],
        ids: &[Vec<i64>],
        mask: &[Vec<i64>],
    ) -> Result<Vec<f32>, RuntimeError> {
        let (rows, length) = (ids.len(), ids.first().map_or(0, Vec::len));
        let FusionDimensions { image_tokens, image_width, .. } = self.sizes;
        let failed = |source| RuntimeError::Run { graph: "prediction of masked words", rows, source };
        let (ids, mask) = (ids.concat(), mask.concat());
        let image =
            TensorRef::from_array_view(([rows, image_tokens, image_width], tokens)).map_err(failed)?;
        let ids = TensorRef::from_array_view(([rows, length], ids.as_slice())).map_err(failed)?;
        let mask = TensorRef::from_array_view(([rows, length], mask.as_slice())).map_err(failed)?;
        let inputs = ort::inputs!["ids" => ids, "attention_mask" => mask, IMAGE_TOKENS => image];
        let outputs = self.session.run(inputs).map_err(failed)?;
        Ok(outputs[MLM_LOGITS].try_extract_tensor::<f32>().map_err(failed)?.1.to_vec())
    }
}
