//! The text tower.

use burn::tensor::{Bool, Int, Tensor};
use recaption_onnx::checkpoint::{ModelConfig, MultimodalInput};

use super::{
    layers::{Block, layer_norm, normalise},
    parameters::Parameters,
};
use crate::kernels::KeyMask;

/// A batch of texts.
#[derive(Clone, Debug)]
pub struct Texts {
    /// Ids `[N, T]`: start, words, end, padding. `T` is the context length, or leaves at least one padding id after the longest
    /// text, so that results equal those of the full context.
    pub ids: Tensor<2, Int>,
    /// Whether each of the tower's `T + 1` keys is hidden, `[N, T + 1]`, by the released weights' shifted rule: key 0 never, key i if
    /// `ids[i - 1]` is padding.
    pub hidden: Tensor<2, Bool>,
}

/// Outputs of the text tower.
pub(super) struct EncodedTexts {
    /// Features, f32 `[N, E]`, L2-normalised; `None` if not asked for.
    pub(super) features: Option<Tensor<2>>,
    /// Inputs of the decoder, `[N * T, W]`.
    pub(super) tokens: Tensor<2>,
}

/// Runs the text tower. Without `contrastive` the class token is left out, which changes no other token.
pub(super) fn encode(p: &Parameters, c: &ModelConfig, texts: &Texts, contrastive: bool) -> EncodedTexts {
    let [batch, length] = texts.ids.dims();
    let (width, context) = (c.text.width, c.text.context_length);
    let words = burn::tensor::module::embedding(p.matrix("text.token_embedding.weight"), texts.ids.clone());
    let positions = p.matrix("text.positional_embedding");
    let embedded = words + positions.clone().narrow(0, 0, length).unsqueeze();
    let reads_embeddings = c.decoder.is_some_and(|d| d.input == MultimodalInput::Embeddings);
    if reads_embeddings && !contrastive {
        return EncodedTexts { features: None, tokens: embedded.reshape([batch * length, width]) };
    }
    let (x, tokens) = if contrastive {
        // The class token is the last token, at the position after the whole context.
        let class = p.lower(p.vector("text.cls_emb")).unsqueeze::<2>() + positions.narrow(0, context, 1);
        let class = class.unsqueeze::<3>().expand([batch, 1, width]);
        (Tensor::cat(vec![embedded.clone(), class], 1), length + 1)
    } else {
        (embedded.clone(), length)
    };
    let mask = KeyMask::CausalExcept(texts.hidden.clone().narrow(1, 0, tokens));
    let mut x = x.reshape([batch * tokens, width]);
    for layer in 0..c.text.layers {
        let block = Block {
            parameters: p,
            prefix: format!("text.transformer.resblocks.{layer}"),
            heads: c.text.heads,
            activation: c.activation,
            layer_scale: c.text.layer_scale.is_some(),
        };
        x = block.self_attention(x, batch, &mask);
    }
    if !contrastive {
        return EncodedTexts { features: None, tokens: x };
    }
    let x = x.reshape([batch, tokens, width]);
    let class = x.clone().narrow(1, length, 1).reshape([batch, width]);
    let class = layer_norm(p, "text.ln_final", class);
    let features = normalise(class.matmul(p.matrix("text.text_projection")));
    let tokens = if reads_embeddings { embedded } else { x.narrow(1, 0, length) };
    EncodedTexts { features: Some(features), tokens: tokens.reshape([batch * length, width]) }
}
