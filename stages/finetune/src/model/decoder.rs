//! The multimodal decoder: pairs of causal self-attention and cross-attention to the image.

use burn::tensor::Tensor;
use recaption_onnx::checkpoint::{DecoderConfig, ModelConfig};

use super::{
    layers::{Block, layer_norm},
    parameters::Parameters,
};
use crate::kernels::KeyMask;

/// Computes logits, f32 `[N * T, V]`, of text tokens `[N * T, W]` and image tokens `[N * Q, W]`; row t predicts id t + 1.
pub(super) fn decode(
    p: &Parameters,
    c: &ModelConfig,
    d: &DecoderConfig,
    (text, image): (Tensor<2>, Tensor<2>),
    batch: usize,
) -> Tensor<2> {
    let block = |kind: &str, layer: usize| Block {
        parameters: p,
        prefix: format!("text_decoder.{kind}.{layer}"),
        heads: d.heads,
        activation: c.activation,
        layer_scale: d.layer_scale.is_some(),
    };
    let mut x = text;
    for layer in 0..d.layers {
        // open_clip masks no padding here: the causal mask hides it from every row that has a label.
        x = block("resblocks", layer).self_attention(x, batch, &KeyMask::Causal);
        x = block("cross_attn", layer).cross_attention(x, image.clone(), batch);
    }
    let x = layer_norm(p, "text_decoder.ln_final", x);
    let logits = x.matmul(p.matrix("text_decoder.text_projection"));
    if logits.dtype() == burn::tensor::DType::F32 { logits } else { logits.cast(burn::tensor::DType::F32) }
}
