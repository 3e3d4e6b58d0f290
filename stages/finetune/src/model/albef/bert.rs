//! The text encoder, its fusion with the image, and the head that predicts words: BERT with norms after each addition.

use burn::tensor::Tensor;

use super::{
    config::AlbefConfig,
    modules::{Modules, TextBatch, first, key_mask},
};
use crate::{
    kernels::{self, KeyMask},
    model::layers::attend,
};

/// Module of the parameters.
const MODULE: &str = "text_encoder";

/// Runs the layers before fusion: returns tokens `[N, T, W]`.
pub(super) fn encode(m: &Modules<'_>, c: &AlbefConfig, texts: &TextBatch) -> Tensor<3> {
    let [batch, length] = texts.ids.dims();
    let width = c.bert.hidden_size;
    let table = |name: &str| m.parameters.matrix(&m.named(MODULE, &format!("bert.embeddings.{name}.weight")));
    let words = burn::tensor::module::embedding(table("word_embeddings"), texts.ids.clone());
    let positions = table("position_embeddings").narrow(0, 0, length);
    let kind = table("token_type_embeddings").narrow(0, 0, 1);
    let x = (words + (positions + kind).unsqueeze()).reshape([batch * length, width]);
    let mut x = m.norm(&m.named(MODULE, "bert.embeddings.LayerNorm"), x, c.bert.layer_norm_eps);
    let mask = key_mask(&texts.lengths, length, &x.device());
    for layer in 0..c.bert.fusion_layer {
        x = self::layer(m, c, layer, [x.clone(), x], None, batch, &mask);
    }
    x.reshape([batch, length, width])
}

/// Which tokens a fusion returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fused {
    /// All, `[N * T, W]`.
    Tokens,
    /// The class token alone, `[N, W]`: the last layer computes no other.
    ClassToken,
}

/// Runs the layers of fusion on texts `[N, T, W]` of these lengths and images `[N, S, V]`.
pub(super) fn fuse(
    m: &Modules<'_>,
    c: &AlbefConfig,
    text: Tensor<3>,
    lengths: &[usize],
    image: Tensor<3>,
    wanted: Fused,
) -> Tensor<2> {
    let [batch, length, width] = text.dims();
    let [_, tokens, image_width] = image.dims();
    let image = image.reshape([batch * tokens, image_width]);
    let mask = key_mask(lengths, length, &text.device());
    let mut x = text.reshape([batch * length, width]);
    let last = c.bert.num_hidden_layers - 1;
    for layer in c.bert.fusion_layer..=last {
        let query = match wanted {
            Fused::ClassToken if layer == last => first(&x.clone().reshape([batch, length, width])),
            _ => x.clone(),
        };
        x = self::layer(m, c, layer, [query, x], Some(&image), batch, &mask);
    }
    x
}

/// Predicts the words of tokens `[R, W]`: logits `[R, V]`. The last matrix is that of the word embeddings.
pub(super) fn words(m: &Modules<'_>, c: &AlbefConfig, x: Tensor<2>) -> Tensor<2> {
    let head = |rest: &str| m.named(MODULE, &format!("cls.predictions.{rest}"));
    let x = kernels::gelu(m.linear(&head("transform.dense"), x));
    let x = m.norm(&head("transform.LayerNorm"), x, c.bert.layer_norm_eps);
    let words = m.parameters.matrix(&m.named(MODULE, "bert.embeddings.word_embeddings.weight"));
    let bias = m.parameters.lower(m.parameters.vector(&head("bias")));
    x.matmul(words.transpose()) + bias.unsqueeze()
}

/// Runs one layer on the tokens `x`, `[N * Q, W]`, which attend to `context`, `[N * T, W]`, and to image tokens `[N * S, V]` where
/// there are any.
fn layer(
    m: &Modules<'_>,
    c: &AlbefConfig,
    layer: usize,
    [x, context]: [Tensor<2>; 2],
    image: Option<&Tensor<2>>,
    batch: usize,
    mask: &KeyMask,
) -> Tensor<2> {
    let name = |rest: &str| m.named(MODULE, &format!("bert.encoder.layer.{layer}.{rest}"));
    let mut x = attention(m, c, &name("attention"), [x, context], batch, mask);
    if let Some(image) = image {
        x = attention(m, c, &name("crossattention"), [x, image.clone()], batch, &KeyMask::None);
    }
    let hidden = kernels::gelu(m.linear(&name("intermediate.dense"), x.clone()));
    let out = m.linear(&name("output.dense"), hidden) + x;
    m.norm(&name("output.LayerNorm"), out, c.bert.layer_norm_eps)
}

/// Computes `norm(x + attention(x, context))`: `[N * Q, W]`, context `[N * S, V]`.
fn attention(
    m: &Modules<'_>,
    c: &AlbefConfig,
    name: &str,
    [x, context]: [Tensor<2>; 2],
    batch: usize,
    mask: &KeyMask,
) -> Tensor<2> {
    let query = m.linear(&format!("{name}.self.query"), x.clone());
    let key = m.linear(&format!("{name}.self.key"), context.clone());
    let value = m.linear(&format!("{name}.self.value"), context);
    let out = attend([query, key, value], batch, c.bert.num_attention_heads, mask);
    let out = m.linear(&format!("{name}.output.dense"), out) + x;
    m.norm(&format!("{name}.output.LayerNorm"), out, c.bert.layer_norm_eps)
}
