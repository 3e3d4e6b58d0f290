//! One copy of an ALBEF's modules: the trained one or its momentum copy.

use burn::tensor::{DType, Tensor};

use super::{
    bert::{self, Fused},
    config::AlbefConfig,
    modules::{Modules, TextBatch, first},
    vit,
};
use crate::model::{layers::normalise, parameters::Parameters};

/// The encoders of one copy. Tokens are `[N, T, W]`.
#[derive(Clone, Copy, Debug)]
pub struct Encoders<'a> {
    modules: Modules<'a>,
    config: &'a AlbefConfig,
}

impl<'a> Encoders<'a> {
    pub(super) fn new(parameters: &'a Parameters, config: &'a AlbefConfig, is_momentum: bool) -> Self {
        Self { modules: Modules { parameters, is_momentum }, config }
    }

    /// Encodes patches of normalised pixels, `[N, G * G, 3 * P * P]`: returns tokens `[N, S, V]`, class token first.
    #[must_use]
    pub fn image(&self, patches: Tensor<3>) -> Tensor<3> {
        vit::encode(&self.modules, self.config, patches)
    }

    /// Encodes texts: returns tokens `[N, T, W]`, class token first.
    #[must_use]
    pub fn text(&self, texts: &TextBatch) -> Tensor<3> {
        bert::encode(&self.modules, self.config, texts)
    }

    /// Returns features of encoded images, f32 `[N, E]`, L2-normalised.
    #[must_use]
    pub fn image_features(&self, tokens: &Tensor<3>) -> Tensor<2> {
        self.features("vision_proj", tokens)
    }

    /// Returns features of encoded texts, f32 `[N, E]`, L2-normalised.
    #[must_use]
    pub fn text_features(&self, tokens: &Tensor<3>) -> Tensor<2> {
        self.features("text_proj", tokens)
    }

    fn features(&self, module: &str, tokens: &Tensor<3>) -> Tensor<2> {
        // Without the dot: the module itself is the projection.
        let name = self.modules.named(module, "");
        normalise(self.modules.linear(name.trim_end_matches('.'), first(tokens)))
    }

    /// Fuses encoded texts `[N, T, W]` of these lengths with encoded images `[N, S, V]`: returns tokens `[N * T, W]`.
    #[must_use]
    pub fn fuse(&self, text: Tensor<3>, lengths: &[usize], image: Tensor<3>) -> Tensor<2> {
        bert::fuse(&self.modules, self.config, text, lengths, image, Fused::Tokens)
    }

    /// Predicts the words of fused tokens `[R, W]`: logits, f32 `[R, V]`.
    #[must_use]
    pub fn words(&self, tokens: Tensor<2>) -> Tensor<2> {
        single(bert::words(&self.modules, self.config, tokens))
    }

    /// Decides whether encoded texts `[N, T, W]` of these lengths belong to encoded images `[N, S, V]`: logits, f32 `[N, 2]`, the
    /// second of a match. The head has no momentum copy.
    #[must_use]
    pub fn matches(&self, text: Tensor<3>, lengths: &[usize], image: Tensor<3>) -> Tensor<2> {
        let fused = bert::fuse(&self.modules, self.config, text, lengths, image, Fused::ClassToken);
        single(self.modules.linear("itm_head", fused))
    }
}

/// Casts to f32.
fn single(x: Tensor<2>) -> Tensor<2> {
    if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) }
}
