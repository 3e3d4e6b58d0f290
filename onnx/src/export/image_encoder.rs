//! `image_encoder.onnx`: `pixels` u8 `[N, S, S, 3]` -> `image_features` f32 `[N, E]` and, for every multimodal layer
//! (none in a CLIP), `cross_key_<i>` and `cross_value_<i>` `[N, Q, H * D]`, computed once per image.
//!
//! The patch embedding is in [`patches`], poolers are in [`pooler`], what a model without decoder makes of its tokens in
//! `image_features`.

use super::{
    blocks::{Block, Stream},
    error::ExportError,
    fold::pad_head_rows,
    graph::{Attr, DType, Dim, Value},
    image_blocks::{self, ImageBlock},
    image_features,
    linear::Linear,
    patches::{self, PatchEmbedding},
    pooler::{self, Pooler, PoolerInput},
    tower::{LAYER_NORM_EPSILON, Tower},
};
use crate::{
    checkpoint::{DecoderConfig, ImagePooling, ModelConfig, PoolerConfig, PoolerKind, TensorReader},
    model::{IMAGES, cross_key, cross_value, padded_head_dim},
};

/// Builds the graph.
pub(super) fn build(t: &mut Tower<'_>, c: &ModelConfig) -> Result<(), ExportError> {
    (t.activation, t.epsilon) = (c.vision.activation, c.vision.epsilon);
    let side = Dim::Fixed(c.vision.image_size);
    let pixels = t.g.input("pixels", DType::U8, &[Dim::Named(IMAGES), side, side, Dim::Fixed(3)]);
    let mut x = Stream::Whole(embed(t, c, &pixels)?);
    let tokens = c.vision.tokens();
    let rotary = image_blocks::rotary(t, &c.vision)?;
    let is_class_read = c.decoder.is_none() && c.vision.pooling == ImagePooling::ClassToken;
    for i in 0..c.vision.layers {
        let block = Block {
            prefix: format!("visual.transformer.resblocks.{i}"),
            width: c.vision.width,
            heads: c.vision.heads,
            mlp_width: c.vision.mlp_width,
            layer_scale: c.vision.layer_scale.is_some(),
        };
        // Where only the class token is read after the last block, only it is computed there.
        let class_only = is_class_read && i + 1 == c.vision.layers;
        let block = ImageBlock { block, kind: c.vision.blocks, tokens, rotary: rotary.as_ref(), class_only };
        x = image_blocks::build(t, &block, &x)?;
    }
    let Some(decoder) = &c.decoder else {
        return image_features::build(t, c, &x);
    };
    let (pooled, caption, width) = match c.vision.pooler {
        None => {
            let width = c.vision.width;
            let (x, _) = t.norm_stream("visual.ln_post", &x, width)?;
            let (class, patches) = split(t, &x, tokens, width);
            (class, patches, width)
        }
        Some(p) => {
            let (pooled, caption) = pooled_and_caption(t, c, p, &x, tokens)?;
            (pooled, caption, c.embed_dim)
        }
    };
    image_features::project(t, c, &pooled, width)?;
    cross_keys_and_values(t, decoder, &caption, c.image_tokens(), width)
}

/// Pools the image tower's tokens `[N * tokens, W]`; returns the unprojected embedding `[N, E]` and the caption tokens
/// `[N * Q, E]`, each normalised by its `ln_post`.
fn pooled_and_caption(
    t: &mut Tower<'_>,
    c: &ModelConfig,
    p: PoolerConfig,
    x: &Stream,
    tokens: usize,
) -> Result<(Value, Value), ExportError> {
    let e = c.embed_dim;
    let (heads, embed_dim) = (p.heads, e);
    let of_tower = PoolerInput { tokens, width: c.vision.width };
    let queried = pooler::build(
        t,
        &Pooler {
            prefix: "visual.attn_pool",
            queries: p.queries,
            heads,
            embed_dim,
            input: of_tower,
            has_norms: true,
        },
        x,
    )?;
    let (input, stream) = match p.kind {
        PoolerKind::Released => {
            let x = t.layer_norm("visual.ln_post", &queried, e)?;
            return Ok(split(t, &x, p.queries, e));
        }
        PoolerKind::Parallel => (of_tower, x),
        PoolerKind::Cascade => (PoolerInput { tokens: p.queries, width: e }, &Stream::Whole(queried.clone())),
    };
    let pooled = pooler::build(
        t,
        &Pooler {
            prefix: "visual.attn_pool_contrastive",
            queries: 1,
            heads,
            embed_dim,
            input,
            has_norms: true,
        },
        stream,
    )?;
    Ok((
        t.layer_norm("visual.ln_post_contrastive", &pooled, e)?,
        t.layer_norm("visual.ln_post", &queried, e)?,
    ))
}

/// Returns the first of `count` tokens `[N, width]`, and the others `[N * (count - 1), width]`.
fn split(t: &mut Tower<'_>, x: &Value, count: usize, width: usize) -> (Value, Value) {
    let x = t.as_batch(x, count, width);
    let first = t.first_token(&x);
    let (starts, ends, axes) = (t.g.ints(&[1]), t.g.ints(&[count as i64]), t.g.ints(&[1]));
    let rest = t.g.op("Slice", &[&x, &starts, &ends, &axes], &[]);
    (first, t.as_rows(&rest, width))
}

/// Embeds pixels as tokens `[N * tokens, W]`: patches, class token if there is one, positions, `ln_pre`.
fn embed(t: &mut Tower<'_>, c: &ModelConfig, pixels: &Value) -> Result<Value, ExportError> {
    let v = &c.vision;
    let (width, patches, tokens) = (v.width, v.grid() * v.grid(), v.tokens());
    let embedding = PatchEmbedding {
        image_size: v.image_size,
        patch_size: v.patch_size,
        width,
        weight: "visual.conv1.weight",
        bias: v.patch_bias.then_some("visual.conv1.bias"),
        normalisation: c.normalisation,
    };
    let x = patches::embed(t, &embedding, pixels)?;
    let positions = t.derived_weight("visual.patch_positions", &[patches, width], |r| {
        let bias = embedding.folded_bias(r)?;
        let positions = r.get("visual.positional_embedding", &[tokens, width])?;
        let of_patches = &positions[(tokens - patches) * width..];
        Ok(of_patches.iter().enumerate().map(|(i, p)| p + bias[i % width]).collect())
    })?;
    let x = if v.class_token {
        let class = |r: &TensorReader| {
            let positions = r.get("visual.positional_embedding", &[tokens, width])?;
            let class = r.get("visual.class_embedding", &[width])?;
            Ok(class.iter().zip(&positions).map(|(c, p)| c + p).collect())
        };
        patches::add_positions_and_class(t, &x, &positions, width, class)?
    } else {
        let x = t.g.op("Add", &[&x, &positions], &[]);
        t.as_rows(&x, width)
    };
    if v.ln_pre { t.layer_norm("visual.ln_pre", &x, width) } else { Ok(x) }
}

/// Adds keys and values of every cross-attention, from `tokens [N * count, width]`. The layers' `ln_1_kv` share the normalised
/// tokens; their gains and shifts are folded into the projections.
fn cross_keys_and_values(
    t: &mut Tower<'_>,
    d: &DecoderConfig,
    tokens: &Value,
    count: usize,
    width: usize,
) -> Result<(), ExportError> {
    let ones = t.derived_weight("cross_attn.unit_gain", &[width], |_| Ok(vec![1.0; width]))?;
    let zeros = t.derived_weight("cross_attn.no_shift", &[width], |_| Ok(vec![0.0; width]))?;
    let attrs = [("axis", Attr::Int(-1)), ("epsilon", Attr::Float(LAYER_NORM_EPSILON))];
    let normed = t.g.op("LayerNormalization", &[tokens, &ones, &zeros], &attrs);
    let dim = width / d.heads;
    let padded = padded_head_dim(dim);
    let inner = d.heads * padded;
    for layer in 0..d.layers {
        for (part, name) in [(1, cross_key(layer)), (2, cross_value(layer))] {
            // In fused graphs biases are folded away, see `Tower::attention_out`.
            let bias = format!("{name}.bias");
            let bias = (!t.is_fused()).then_some(bias.as_str());
            let rows = t.project(
                &normed,
                &Linear { weight: &format!("{name}.weight"), bias, sizes: [inner, width] },
                |r| Ok(pad_head_rows(&fold_kv_norm(r, layer, width, part)?.0, dim, padded, width)),
                |r| Ok(pad_head_rows(&fold_kv_norm(r, layer, width, part)?.1, dim, padded, 1)),
            )?;
            let shape = [Dim::Named(IMAGES), Dim::Fixed(count), Dim::Fixed(inner)];
            let output = t.g.declare_output(&name, t.dtype, &shape);
            let shape = t.g.ints(&[-1, count as i64, inner as i64]);
            t.g.op_into("Reshape", &[&rows, &shape], &output, &[]);
        }
    }
    Ok(())
}

/// Returns the bias of a cross-attention's values, `[width]`, with the shift of their LayerNorm.
pub(super) fn cross_value_bias(
    r: &TensorReader,
    layer: usize,
    width: usize,
) -> Result<Vec<f32>, ExportError> {
    Ok(fold_kv_norm(r, layer, width, 2)?.1)
}

/// Returns a key or value projection with `ln_1_kv`'s gain and shift folded in: `W diag(gain)` and `W shift + bias`.
fn fold_kv_norm(
    r: &TensorReader,
    layer: usize,
    w: usize,
    part: usize,
) -> Result<(Vec<f32>, Vec<f32>), ExportError> {
    let prefix = format!("text_decoder.cross_attn.{layer}");
    let gain = r.get(&format!("{prefix}.ln_1_kv.weight"), &[w])?;
    let shift = r.get(&format!("{prefix}.ln_1_kv.bias"), &[w])?;
    let packed = r.get(&format!("{prefix}.attn.in_proj_weight"), &[3 * w, w])?;
    let packed_bias = r.get(&format!("{prefix}.attn.in_proj_bias"), &[3 * w])?;
    let mut weight = Vec::with_capacity(w * w);
    let mut bias = Vec::with_capacity(w);
    for row in part * w..(part + 1) * w {
        let source = &packed[row * w..(row + 1) * w];
        weight.extend(source.iter().zip(&gain).map(|(v, g)| (f64::from(*v) * f64::from(*g)) as f32));
        let moved: f64 = source.iter().zip(&shift).map(|(v, s)| f64::from(*v) * f64::from(*s)).sum();
        bias.push((moved + f64::from(packed_bias[row])) as f32);
    }
    Ok((weight, bias))
}
