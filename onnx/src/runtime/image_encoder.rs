//! `image_encoder.onnx`: pixels -> contrastive features and the cross-attention keys and values.

use ort::{
    session::Session,
    value::{DynTensor, Tensor, TensorRef},
};

use super::{RuntimeError, SessionOptions, session};
use crate::model::{IMAGE_ENCODER_FILE, ModelFolder, cross_key, cross_value};

/// What is computed once per image, for a batch of images.
pub struct Encoded {
    /// L2-normalised embeddings, `[N, E]`.
    pub features: Vec<f32>,
    /// Key and value of every multimodal layer, alternating, each `[N, Q, H * D]` in the model's precision. None of a
    /// CLIP.
    pub cross: Vec<DynTensor>,
}

/// The image tower, and a CoCa's pooler and cross-attention projections.
pub struct ImageEncoder {
    session: Session,
    size: usize,
    embed_dim: usize,
    outputs: Vec<String>,
}

impl ImageEncoder {
    /// Loads the graph.
    ///
    /// # Errors
    /// When the library or the graph cannot be loaded.
    pub fn load(model: &ModelFolder, options: &SessionOptions) -> Result<Self, RuntimeError> {
        let layers = model.spec.dimensions.decoder.map_or(0, |d| d.decoder_layers);
        Ok(Self {
            session: session::create(&model.path(IMAGE_ENCODER_FILE), options)?,
            size: model.spec.image_size as usize,
            embed_dim: model.spec.dimensions.embed_dim,
            outputs: (0..layers).flat_map(|i| [cross_key(i), cross_value(i)]).collect(),
        })
    }

    /// Bytes of one image, `S * S * 3`.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.size * self.size * 3
    }

    /// Encodes images: `pixels` u8 RGB `[N, S, S, 3]`, row-major. A row of the result does not depend on the others.
    ///
    /// # Errors
    /// When `pixels` is not a whole number of images, or the graph fails.
    pub fn encode(&mut self, pixels: &[u8]) -> Result<Encoded, RuntimeError> {
        let each = self.image_bytes();
        let n = pixels.len() / each;
        if n == 0 || !pixels.len().is_multiple_of(each) {
            return Err(RuntimeError::Input(format!("{} bytes are no whole images of {each}", pixels.len())));
        }
        let failed = |source| RuntimeError::Run { graph: "image encoder", rows: n, source };
        let input = TensorRef::from_array_view(([n, self.size, self.size, 3], pixels)).map_err(failed)?;
        let inputs = ort::inputs!["pixels" => input];
        let mut outputs = self.session.run(inputs).map_err(failed)?;
        let features = outputs["image_features"].try_extract_tensor::<f32>().map_err(failed)?.1.to_vec();
        debug_assert_eq!(features.len(), n * self.embed_dim);
        let mut cross = Vec::with_capacity(self.outputs.len());
        for name in &self.outputs {
            let value = outputs.remove(name.as_str()).ok_or_else(|| {
                RuntimeError::Input(format!(
                    "the image encoder has no output `{name}`: export the model again"
                ))
            })?;
            cross.push(value.downcast().map_err(failed)?);
        }
        Ok(Encoded { features, cross })
    }
}

/// An owned i64 tensor in memory that ONNX Runtime allocated, so that it can be bound and rewritten.
pub(super) fn owned_ids(rows: usize) -> ort::Result<Tensor<i64>> {
    Tensor::<i64>::new(&ort::memory::Allocator::default(), [rows, 1])
}
