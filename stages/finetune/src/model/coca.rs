//! The model: towers and decoder in one forward pass.

use burn::tensor::Tensor;
use recaption_onnx::checkpoint::{DecoderConfig, ModelConfig};

use super::{
    decoder,
    parameters::Parameters,
    text::{self, Texts},
    vision,
};

/// A CoCa: its configuration and its parameters.
#[derive(Clone, Debug)]
pub struct Coca {
    /// Sizes and options.
    pub config: ModelConfig,
    decoder: DecoderConfig,
    /// The parameters.
    pub parameters: Parameters,
}

/// Outputs of one forward pass.
#[derive(Debug)]
pub struct Output {
    /// Image features, f32 `[N, E]`, L2-normalised.
    pub image_features: Tensor<2>,
    /// Text features, f32 `[N, E]`, L2-normalised; `None` if not asked for.
    pub text_features: Option<Tensor<2>>,
    /// Logits by teacher forcing, f32 `[N * (T - 1), V]`; `None` if not asked for.
    pub logits: Option<Tensor<2>>,
}

impl Coca {
    /// Creates a model; returns `None` for the configuration of a CLIP, which has no decoder.
    #[must_use]
    pub fn new(config: ModelConfig, parameters: Parameters) -> Option<Self> {
        let decoder = config.decoder?;
        Some(Self { config, decoder, parameters })
    }

    /// Returns the same model without autodiff.
    #[must_use]
    pub fn without_autodiff(&self) -> Self {
        Self { parameters: self.parameters.without_autodiff(), ..self.clone() }
    }

    /// Returns the multimodal decoder's sizes.
    #[must_use]
    pub fn decoder(&self) -> &DecoderConfig {
        &self.decoder
    }

    /// Computes features and logits of patches `[N, G * G, 3 * P * P]` and texts; `contrastive` asks for text features, `captions`
    /// for logits.
    #[must_use]
    pub fn forward(&self, patches: Tensor<3>, texts: &Texts, contrastive: bool, captions: bool) -> Output {
        let p = &self.parameters;
        let [batch, length] = texts.ids.dims();
        let images = vision::encode(p, &self.config, patches);
        let encoded = text::encode(p, &self.config, texts, contrastive);
        let logits = captions.then(|| {
            // The last id has no label.
            let width = encoded.tokens.dims()[1];
            let read = encoded.tokens.reshape([batch, length, width]).narrow(1, 0, length - 1);
            let read = read.reshape([batch * (length - 1), width]);
            decoder::decode(p, &self.config, &self.decoder, (read, images.tokens), batch)
        });
        Output { image_features: images.features, text_features: encoded.features, logits }
    }
}
