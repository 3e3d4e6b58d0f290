//! The image encoder: timm's ViT with norms before attention and MLP.

use burn::tensor::Tensor;

use super::{config::AlbefConfig, modules::Modules};
use crate::{
    kernels::{self, KeyMask},
    model::layers::attend,
};

/// Runs the image encoder on patches of normalised pixels, `[N, G * G, 3 * P * P]`, channel by channel: returns tokens
/// `[N, G * G + 1, W]`, class token first.
pub(super) fn encode(m: &Modules<'_>, c: &AlbefConfig, patches: Tensor<3>) -> Tensor<3> {
    let [batch, count, pixels] = patches.dims();
    let (width, tokens) = (c.vision_width, count + 1);
    let name = |rest: &str| m.named("visual_encoder", rest);
    let p = m.parameters;
    let x = m.linear(&name("patch_embed.proj"), p.lower(patches.reshape([batch * count, pixels])));
    let class = p.lower(p.vector(&name("cls_token"))).reshape([1, 1, width]).expand([batch, 1, width]);
    let positions = p.lower(p.vector(&name("pos_embed"))).reshape([1, tokens, width]);
    let x = Tensor::cat(vec![class, x.reshape([batch, count, width])], 1) + positions;
    let mut x = x.reshape([batch * tokens, width]);
    if c.vision_norm_pre {
        x = m.norm(&name("norm_pre"), x, c.vision_norm_eps);
    }
    for block in 0..c.vision_depth {
        x = self::block(m, c, &name(&format!("blocks.{block}")), x, batch);
    }
    m.norm(&name("norm"), x, c.vision_norm_eps).reshape([batch, tokens, width])
}

/// Computes `x + attn(norm1(x))`, then `x + mlp(norm2(x))`, on `[N * T, W]`.
fn block(m: &Modules<'_>, c: &AlbefConfig, name: &str, x: Tensor<2>, batch: usize) -> Tensor<2> {
    let width = c.vision_width;
    let normed = m.norm(&format!("{name}.norm1"), x.clone(), c.vision_norm_eps);
    let qkv = m.linear(&format!("{name}.attn.qkv"), normed);
    let part = |i: usize| qkv.clone().narrow(1, i * width, width);
    let out = attend([part(0), part(1), part(2)], batch, c.vision_heads, &KeyMask::None);
    let x = x + m.linear(&format!("{name}.attn.proj"), out);
    let normed = m.norm(&format!("{name}.norm2"), x.clone(), c.vision_norm_eps);
    let hidden = kernels::gelu(m.linear(&format!("{name}.mlp.fc1"), normed));
    x + m.linear(&format!("{name}.mlp.fc2"), hidden)
}
