//! CoCa in burn: what open_clip's `CoCa.forward` computes, with our own poolers and wirings beside the released ones.
//!
//! Sizes and options are recaption-onnx's [`ModelConfig`], names and shapes its list of parameters: the exporter reads the
//! same. Nothing here knows of losses or of training.

mod decoder;
mod layers;
mod parameters;
mod text;
mod vision;

use burn::tensor::{DType, Tensor};
pub use layers::Visible;
pub use parameters::{Parameters, host};
use recaption_onnx::checkpoint::{DecoderConfig, ModelConfig};
pub use text::{EncodedTexts, Texts};
pub use vision::EncodedImages;

/// A CoCa: its description and its parameters.
#[derive(Clone)]
pub struct Coca {
    /// Sizes and options.
    pub config: ModelConfig,
    decoder: DecoderConfig,
    /// The parameters.
    pub parameters: Parameters,
}

/// What one forward pass gives.
pub struct Output {
    /// Image embeddings `[N, E]`, L2-normalised.
    pub image_features: Tensor<2>,
    /// Text embeddings `[N, E]`, L2-normalised; `None` when only captions count.
    pub text_features: Option<Tensor<2>>,
    /// Logits by teacher forcing `[N * (T - 1), V]`; `None` when only contrast counts.
    pub logits: Option<Tensor<2>>,
}

impl Coca {
    /// A model of that description; `None` for a CLIP, which writes no captions.
    #[must_use]
    pub fn new(config: ModelConfig, parameters: Parameters) -> Option<Self> {
        let decoder = config.decoder?;
        Some(Self { config, decoder, parameters })
    }

    /// The same model outside any graph: forward passes only.
    #[must_use]
    pub fn without_autodiff(&self) -> Self {
        Self { parameters: self.parameters.without_autodiff(), ..self.clone() }
    }

    /// The multimodal decoder's sizes.
    #[must_use]
    pub fn decoder(&self) -> &DecoderConfig {
        &self.decoder
    }

    /// Patches `[N, G * G, 3 * P * P]` and texts -> embeddings and logits. What is not asked for is not computed.
    #[must_use]
    pub fn forward(&self, patches: Tensor<3>, texts: &Texts, contrastive: bool, captions: bool) -> Output {
        let p = &self.parameters;
        let [batch, length] = texts.ids.dims();
        let images = vision::encode(p, &self.config, patches);
        let encoded = text::encode(p, &self.config, texts, contrastive);
        let logits = captions.then(|| {
            // The last id predicts nothing.
            let width = encoded.tokens.dims()[1];
            let read = encoded.tokens.reshape([batch, length, width]).narrow(1, 0, length - 1);
            let read = read.reshape([batch * (length - 1), width]);
            decoder::decode(p, &self.config, &self.decoder, (read, images.tokens), batch)
        });
        Output { image_features: images.features, text_features: encoded.features, logits }
    }
}

/// Rows over their L2 norm (at least 1e-12, as torch does), single. `[N, E] -> [N, E]`.
fn normalise(x: Tensor<2>) -> Tensor<2> {
    let x = if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) };
    let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / norm
}
