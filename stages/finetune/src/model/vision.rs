//! The image tower and its poolers.

use burn::tensor::Tensor;
use recaption_onnx::checkpoint::{ModelConfig, PoolerConfig, PoolerKind};

use super::{
    layers::{Block, attend, attention_projections, layer_norm, normalise, project},
    parameters::Parameters,
};
use crate::kernels::KeyMask;

/// Outputs of the image tower.
pub(super) struct EncodedImages {
    /// Features, f32 `[N, E]`, L2-normalised.
    pub(super) features: Tensor<2>,
    /// Tokens that the decoder cross-attends to, `[N * Q, W]`.
    pub(super) tokens: Tensor<2>,
}

/// Runs the image tower on patches of normalised pixels, `[N, G * G, 3 * P * P]`, channel by channel.
pub(super) fn encode(p: &Parameters, c: &ModelConfig, patches: Tensor<3>) -> EncodedImages {
    let [batch, count, pixels] = patches.dims();
    let width = c.vision.width;
    let patches = p.lower(patches.reshape([batch * count, pixels]));
    let x = patches.matmul(p.matrix("visual.conv1.weight").transpose()).reshape([batch, count, width]);
    let class = p.lower(p.vector("visual.class_embedding")).reshape([1, 1, width]).expand([batch, 1, width]);
    let positions = p.matrix("visual.positional_embedding").unsqueeze::<3>();
    let tokens = count + 1;
    let mut x = (Tensor::cat(vec![class, x], 1) + positions).reshape([batch * tokens, width]);
    if c.vision.ln_pre {
        x = layer_norm(p, "visual.ln_pre", x);
    }
    for layer in 0..c.vision.layers {
        let block = Block {
            parameters: p,
            prefix: format!("visual.transformer.resblocks.{layer}"),
            heads: c.vision.heads,
            activation: c.activation,
            layer_scale: c.vision.layer_scale.is_some(),
        };
        x = block.self_attention(x, batch, &KeyMask::None);
    }
    let (pooled, tokens) = match &c.vision.pooler {
        None => {
            let x = layer_norm(p, "visual.ln_post", x);
            first_and_rest(x, batch, tokens)
        }
        Some(pooler) => pool(p, pooler, x, batch),
    };
    let features = normalise(pooled.matmul(p.matrix("visual.proj")));
    EncodedImages { features, tokens }
}

/// Splits `[N * T, W]` into the first token of each image, `[N, W]`, and the others, `[N * (T - 1), W]`.
fn first_and_rest(x: Tensor<2>, batch: usize, tokens: usize) -> (Tensor<2>, Tensor<2>) {
    let width = x.dims()[1];
    let x = x.reshape([batch, tokens, width]);
    let first = x.clone().narrow(1, 0, 1).reshape([batch, width]);
    let rest = x.narrow(1, 1, tokens - 1).reshape([batch * (tokens - 1), width]);
    (first, rest)
}

/// Pools tokens `[N * T, W]`: returns the input of the final projection, `[N, E]`, and caption tokens, `[N * Q, E]`.
fn pool(p: &Parameters, pooler: &PoolerConfig, x: Tensor<2>, batch: usize) -> (Tensor<2>, Tensor<2>) {
    let pooled = attend_to(p, "visual.attn_pool", x.clone(), batch, pooler.heads);
    match pooler.kind {
        PoolerKind::Released => {
            let pooled = layer_norm(p, "visual.ln_post", pooled);
            first_and_rest(pooled, batch, pooler.queries)
        }
        PoolerKind::Parallel | PoolerKind::Cascade => {
            let context = if pooler.kind == PoolerKind::Parallel { x } else { pooled.clone() };
            let contrastive = attend_to(p, "visual.attn_pool_contrastive", context, batch, pooler.heads);
            let contrastive = layer_norm(p, "visual.ln_post_contrastive", contrastive);
            (contrastive, layer_norm(p, "visual.ln_post", pooled))
        }
    }
}

/// Lets learnt queries attend to `x` `[N * T, W]`; returns `[N * Q, E]`.
fn attend_to(p: &Parameters, prefix: &str, x: Tensor<2>, batch: usize, heads: usize) -> Tensor<2> {
    let context = layer_norm(p, &format!("{prefix}.ln_k"), x);
    let query = layer_norm(p, &format!("{prefix}.ln_q"), p.matrix(&format!("{prefix}.query")));
    let attn = format!("{prefix}.attn");
    let [query, key, value] = attention_projections(p, &attn, [query, context]);
    let [queries, width] = query.dims();
    // The queries are the same for every image.
    let query = query.unsqueeze::<3>().expand([batch, queries, width]).reshape([batch * queries, width]);
    let out = attend([query, key, value], batch, heads, &KeyMask::None);
    project(
        out,
        p.matrix(&format!("{attn}.out_proj.weight")),
        Some(p.vector(&format!("{attn}.out_proj.bias"))),
    )
}
