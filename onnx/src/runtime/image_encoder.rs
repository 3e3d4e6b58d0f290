//! `image_encoder.onnx`: pixels -> contrastive features (none in a BLIP captioner) and the cross-attention keys and values.

use ort::{
    memory::Allocator,
    session::{IoBinding, Session},
    value::{DynTensor, Tensor, TensorRef},
};

use super::{error::RuntimeError, memory::Memory, options::SessionOptions, session};
use crate::model::{IMAGE_ENCODER_FILE, IMAGE_TOKENS, ModelFolder, cross_key, cross_value};

/// What is computed once per image, for a batch of images.
#[derive(Debug)]
pub struct Encoded {
    /// Number of images, `N`, at least 1.
    images: usize,
    /// L2-normalised embeddings, `[N, E]`; empty for a BLIP captioner.
    pub features: Vec<f32>,
    /// Keys and values of the multimodal layers, alternating, each `[N, Q, H * D]` in the model's precision, in the session's
    /// memory. Empty for a CLIP.
    pub cross: Vec<DynTensor>,
}

impl Encoded {
    /// Returns the number of images, `N`.
    #[must_use]
    pub fn images(&self) -> usize {
        self.images
    }

    /// Returns the embedding of image `index`, `[E]`; empty for a BLIP captioner.
    ///
    /// # Panics
    /// When there is no such image.
    #[must_use]
    pub fn features_of(&self, index: usize) -> &[f32] {
        let width = self.features.len() / self.images;
        &self.features[index * width..(index + 1) * width]
    }
}

/// The image tower, with a CoCa's pooler, and with the projections of cross-attentions.
#[derive(Debug)]
pub struct ImageEncoder {
    session: Session,
    size: usize,
    embed_dim: usize,
    outputs: Vec<String>,
    /// Memory that keys and values stay in; `None` for host memory.
    device: Option<(Memory, IoBinding)>,
}

impl ImageEncoder {
    /// Loads the graph.
    ///
    /// # Errors
    /// When the library or the graph cannot be loaded.
    pub fn load(model: &ModelFolder, options: &SessionOptions) -> Result<Self, RuntimeError> {
        let layers = model.spec.dimensions.decoder.map_or(0, |d| d.decoder_layers);
        let session = session::create(model, IMAGE_ENCODER_FILE, options)?;
        // A CLIP's only output is features, which go to the host.
        let memory = options.memory().filter(|_| layers > 0);
        let failed = |source| RuntimeError::Session { path: model.path(IMAGE_ENCODER_FILE), source };
        let bound = |memory| Ok::<_, RuntimeError>((memory, session.create_binding().map_err(failed)?));
        Ok(Self {
            device: memory.map(bound).transpose()?,
            session,
            size: model.spec.image_size as usize,
            embed_dim: model.spec.dimensions.embed_dim,
            outputs: (0..layers).flat_map(|i| [cross_key(i), cross_value(i)]).collect(),
        })
    }

    /// Returns the bytes of one image, `S * S * 3`.
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
            return Err(RuntimeError::Input(format!(
                "{} bytes are not a whole number of images of {each} bytes",
                pixels.len()
            )));
        }
        let failed = |source| RuntimeError::Run { graph: "image encoder", rows: n, source };
        if self.device.is_some() {
            return self.encode_on_device(pixels, n).map_err(failed);
        }
        let input = TensorRef::from_array_view(([n, self.size, self.size, 3], pixels)).map_err(failed)?;
        let inputs = ort::inputs!["pixels" => input];
        let mut outputs = self.session.run(inputs).map_err(failed)?;
        let features = match self.embed_dim {
            0 => Vec::new(),
            _ => outputs["image_features"].try_extract_tensor::<f32>().map_err(failed)?.1.to_vec(),
        };
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
        Ok(Encoded { images: n, features, cross })
    }

    /// Encodes images for a model that matches: embeddings f32 `[N, E]`, L2-normalised, and the tokens that texts attend to, f32
    /// `[N, Q, W]`, both in host memory.
    ///
    /// # Errors
    /// As [`ImageEncoder::encode`], and when the graph has no such outputs.
    pub fn encode_for_matching(&mut self, pixels: &[u8]) -> Result<(Vec<f32>, Vec<f32>), RuntimeError> {
        let each = self.image_bytes();
        let n = pixels.len() / each;
        if n == 0 || !pixels.len().is_multiple_of(each) {
            let what = format!("{} bytes are not a whole number of images of {each} bytes", pixels.len());
            return Err(RuntimeError::Input(what));
        }
        let failed = |source| RuntimeError::Run { graph: "image encoder", rows: n, source };
        let input = TensorRef::from_array_view(([n, self.size, self.size, 3], pixels)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs!["pixels" => input]).map_err(failed)?;
        let values = |name: &str| -> Result<Vec<f32>, RuntimeError> {
            let value = outputs
                .get(name)
                .ok_or_else(|| RuntimeError::Input(format!("the image encoder has no output `{name}`")))?;
            Ok(value.try_extract_tensor::<f32>().map_err(failed)?.1.to_vec())
        };
        Ok((values("image_features")?, values(IMAGE_TOKENS)?))
    }

    /// Returns the tokens that a BLIP's texts attend to, f32 `[N, Q, W]`, for a [`Matcher`](super::Matcher) and for comparisons.
    ///
    /// # Errors
    /// As [`ImageEncoder::encode`], and when the graph has no such output.
    pub fn image_tokens(&mut self, pixels: &[u8]) -> Result<Vec<f32>, RuntimeError> {
        let n = pixels.len() / self.image_bytes();
        let failed = |source| RuntimeError::Run { graph: "image encoder", rows: n, source };
        let input = TensorRef::from_array_view(([n, self.size, self.size, 3], pixels)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs!["pixels" => input]).map_err(failed)?;
        let tokens = outputs.get(IMAGE_TOKENS).ok_or_else(|| {
            RuntimeError::Input(format!("the image encoder has no output `{IMAGE_TOKENS}`"))
        })?;
        Ok(tokens.try_extract_tensor::<f32>().map_err(failed)?.1.to_vec())
    }

    /// Encodes images with one upload of the pixels; keys and values stay on the device, features are copied to the host.
    fn encode_on_device(&mut self, pixels: &[u8], n: usize) -> ort::Result<Encoded> {
        let Some((memory, binding)) = &mut self.device else {
            return Err(ort::Error::new("the image encoder has no device"));
        };
        // Owned: binding a borrowed tensor to a session of the same device deadlocks in ort 2.0.0-rc.15.
        let mut input = Tensor::<u8>::new(&Allocator::default(), [n, self.size, self.size, 3])?;
        input.extract_tensor_mut().1.copy_from_slice(pixels);
        binding.bind_input("pixels", &input)?;
        // Bound for every call: an output keeps the shape of the call after it was bound.
        if self.embed_dim > 0 {
            binding.bind_output_to_device("image_features", &Memory::Cpu.info()?)?;
        }
        let device = memory.info()?;
        for name in &self.outputs {
            binding.bind_output_to_device(name.as_str(), &device)?;
        }
        binding.synchronize_inputs()?;
        let mut outputs = self.session.run_binding(binding)?;
        let features = match self.embed_dim {
            0 => Vec::new(),
            _ => outputs["image_features"].try_extract_tensor::<f32>()?.1.to_vec(),
        };
        let mut cross: Vec<DynTensor> = Vec::with_capacity(self.outputs.len());
        for name in &self.outputs {
            let missing = || ort::Error::new(format!("no output `{name}`: export the model again"));
            cross.push(outputs.remove(name).ok_or_else(missing)?.downcast()?);
        }
        Ok(Encoded { images: n, features, cross })
    }
}
