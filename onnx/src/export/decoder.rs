//! `decoder.onnx`: one step of the text tower and the multimodal decoder with a KV cache. A decoder that reads embeddings
//! has no layers of the text tower before it.
//!
//! Inputs: `ids`, `positions` i64 `[R, 1]`; `past_key_<i>`, `past_value_<i>` `[R, H, L, D]` for the text tower's layers
//! and then the decoder's; `cross_key_<j>`, `cross_value_<j>` `[N, Q, H * D]`. Outputs: `logits` f32 `[R, V]` and
//! `present_*`, which may be the same memory as `past_*`. Row r is at `positions[r]`: rows of different lengths share
//! a batch. `R` is a multiple of `N`; rows `r * R / N ..` belong to image r, so that beams share cross keys and values.
//!
//! The caller guarantees `positions < L`: ONNX Runtime's kernel does not check it.

use super::{
    blocks::{Block, Stream},
    error::ExportError,
    graph::{Attr, DType, Dim, GraphBuilder, Value},
    image_encoder,
    linear::Linear,
    text_encoder,
    tower::Tower,
};
use crate::{
    checkpoint::{DecoderConfig, ModelConfig, TensorReader},
    model::{IMAGES, Precision, cross_key, cross_value, past_key, past_value, present_key, present_value},
};

pub(super) const ROWS: &str = "rows";
const CACHE: &str = "cache";

/// Values that every layer reads.
pub(super) struct StepInputs {
    /// Index of each row's newest token, i32 `[R]`.
    last: Value,
    /// Length of the caches, i32 scalar in host memory, which kernels read as the bound of all rows' lengths.
    total: Value,
    /// `[N, R / N, H * D]` as a shape.
    pub(super) queries: Value,
}

/// Builds the graph.
pub(super) fn build(t: &mut Tower<'_>, c: &ModelConfig, d: &DecoderConfig) -> Result<(), ExportError> {
    let ids = t.g.input("ids", DType::I64, &[Dim::Named(ROWS), Dim::Fixed(1)]);
    let positions = t.g.input("positions", DType::I64, &[Dim::Named(ROWS), Dim::Fixed(1)]);
    let cross = declare_cross(t, &block(d, "cross_attn", 0), c.image_tokens(), d.layers);
    let text_layers = c.decoding_text_layers();
    let blocks: Vec<Block> = (0..text_layers)
        .map(|layer| text_encoder::block(c, layer))
        .chain((0..d.layers).map(|layer| block(d, "resblocks", layer)))
        .collect();
    let caches: Vec<LayerCache> =
        blocks.iter().enumerate().map(|(i, block)| declare_cache(t, block, i)).collect();
    let step = prepare(t, &block(d, "cross_attn", 0), &positions, &cross[0].0, &caches[0]);
    let mut x = Stream::Whole(embed(t, c, &ids, &positions)?);
    for (layer, (block, cache)) in blocks.iter().zip(&caches).enumerate() {
        x = self_attention(t, block, &x, &step, cache)?;
        if let Some(layer) = layer.checked_sub(text_layers) {
            let (key, value) = &cross[layer];
            x = cross_attention(t, &self::block(d, "cross_attn", layer), &x, &step, [key, value], layer)?;
        }
    }
    let (x, _) = t.norm_stream("text_decoder.ln_final", &x, d.width)?;
    let logits = project_logits(t, &x, d.width, c.text.vocab_size)?;
    let logits = t.cast_to_f32(&logits);
    t.g.output("logits", &logits, DType::F32, &[Dim::Named(ROWS), Dim::Fixed(c.text.vocab_size)]);
    Ok(())
}

/// Projects `[R, W] -> [R, V]`; the checkpoint stores this weight as `[W, V]`.
fn project_logits(t: &mut Tower<'_>, x: &Value, width: usize, vocab: usize) -> Result<Value, ExportError> {
    const NAME: &str = "text_decoder.text_projection";
    if t.precision != Precision::Int8 {
        let proj = t.checkpoint_weight(NAME, &[width, vocab])?;
        return Ok(t.g.op("MatMul", &[x, &proj], &[]));
    }
    let transposed = |r: &TensorReader| {
        let plain = r.get(NAME, &[width, vocab])?;
        Ok((0..vocab)
            .flat_map(|v| (0..width).map(move |w| (v, w)))
            .map(|(v, w)| plain[w * vocab + v])
            .collect())
    };
    t.project(x, &Linear { weight: NAME, bias: None, sizes: [vocab, width] }, transposed, |_| Ok(Vec::new()))
}

/// Returns a block of the multimodal decoder. Its MLP is always four times as wide: open_clip ignores `mlp_ratio` here.
fn block(d: &DecoderConfig, kind: &str, layer: usize) -> Block {
    Block {
        prefix: format!("text_decoder.{kind}.{layer}"),
        width: d.width,
        heads: d.heads,
        mlp_width: 4 * d.width,
        layer_scale: d.layer_scale.is_some(),
    }
}

/// Declares keys and values of `layers` cross-attentions to `tokens` tokens of an image.
pub(super) fn declare_cross(
    t: &mut Tower<'_>,
    block: &Block,
    tokens: usize,
    layers: usize,
) -> Vec<(Value, Value)> {
    let shape = [Dim::Named(IMAGES), Dim::Fixed(tokens), Dim::Fixed(block.heads * block.padded())];
    (0..layers)
        .map(|i| (t.g.input(&cross_key(i), t.dtype, &shape), t.g.input(&cross_value(i), t.dtype, &shape)))
        .collect()
}

/// Keys and values of one self-attention.
pub(super) struct LayerCache {
    past: [Value; 2],
    present: [Value; 2],
}

/// Declares the cache of layer `i`.
pub(super) fn declare_cache(t: &mut Tower<'_>, block: &Block, i: usize) -> LayerCache {
    let shape = [Dim::Named(ROWS), Dim::Fixed(block.heads), Dim::Named(CACHE), Dim::Fixed(block.padded())];
    LayerCache {
        past: [past_key(i), past_value(i)].map(|name| t.g.input(&name, t.dtype, &shape)),
        present: [present_key(i), present_value(i)].map(|name| t.g.declare_output(&name, t.dtype, &shape)),
    }
}

/// Computes what every layer reads, from `positions` and from the shapes of a cross-attention's keys and of a cache; `block` is a
/// cross-attention.
pub(super) fn prepare(
    t: &mut Tower<'_>,
    block: &Block,
    positions: &Value,
    any_cross: &Value,
    any_cache: &LayerCache,
) -> StepInputs {
    let flat = t.g.ints(&[-1]);
    let last = t.g.op("Reshape", &[positions, &flat], &[]);
    let last = t.g.op("Cast", &[&last], &[("to", Attr::Int(DType::I32.code().into()))]);
    // Not reduced from positions: kernels read it in host memory, and positions are on the device.
    let total = t.g.op("Shape", &[&any_cache.past[0]], &[("start", Attr::Int(2)), ("end", Attr::Int(3))]);
    let total = t.g.op("Squeeze", &[&total], &[]);
    let total = t.g.op("Cast", &[&total], &[("to", Attr::Int(DType::I32.code().into()))]);
    let images = t.g.op("Shape", &[any_cross], &[("start", Attr::Int(0)), ("end", Attr::Int(1))]);
    let rest = t.g.ints(&[-1, (block.heads * block.padded()) as i64]);
    let queries = t.g.op("Concat", &[&images, &rest], &[("axis", Attr::Int(0))]);
    StepInputs { last, total, queries }
}

fn embed(t: &mut Tower<'_>, c: &ModelConfig, ids: &Value, positions: &Value) -> Result<Value, ExportError> {
    let width = c.text.width;
    let words = t.checkpoint_weight("text.token_embedding.weight", &[c.text.vocab_size, width])?;
    let places = t.checkpoint_weight("text.positional_embedding", &[c.text.context_length + 1, width])?;
    let words = t.g.op("Gather", &[&words, ids], &[]);
    let places = t.g.op("Gather", &[&places, positions], &[]);
    let x = t.g.op("Add", &[&words, &places], &[]);
    Ok(t.as_rows(&x, width))
}

/// Adds causal self-attention over the cache, then the MLP. `x` is `[R, W]`.
fn self_attention(
    t: &mut Tower<'_>,
    block: &Block,
    stream: &Stream,
    step: &StepInputs,
    cache: &LayerCache,
) -> Result<Stream, ExportError> {
    let inner = block.heads * block.padded();
    let (normed, x) = t.norm_stream(&format!("{}.ln_1", block.prefix), stream, block.width)?;
    let qkv = if t.precision == Precision::Int8 {
        let mut part = |part| -> Result<Value, ExportError> {
            let rows = t.project_part(block, &normed, part)?;
            Ok(t.as_batch(&rows, 1, inner))
        };
        [part(0)?, part(1)?, part(2)?]
    } else {
        let qkv = t.project_packed(block, &normed)?;
        packed(t, &qkv, inner)
    };
    let out = cached_attention(t, block, &qkv, step, cache);
    let x = t.attention_out(block, &out, &x, None)?;
    t.mlp(block, &x)
}

/// Returns query, key and value in one, `[R, 3 * H * D]`, as inputs of [`cached_attention`].
pub(super) fn packed(t: &mut Tower<'_>, qkv: &Value, inner: usize) -> [Value; 3] {
    let none = GraphBuilder::none();
    [t.as_batch(qkv, 1, 3 * inner), none.clone(), none]
}

/// Adds a causal self-attention of each row's newest token over its cache, which gets the token's key and value; `[R, H * D]`.
pub(super) fn cached_attention(
    t: &mut Tower<'_>,
    block: &Block,
    [query, key, value]: &[Value; 3],
    step: &StepInputs,
    LayerCache { past, present }: &LayerCache,
) -> Value {
    let heads = block.heads as i64;
    let out = t.g.microsoft_op(
        "GroupQueryAttention",
        &[query, key, value, &past[0], &past[1], &step.last, &step.total],
        &[&present[0], &present[1]],
        &[
            ("num_heads", Attr::Int(heads)),
            ("kv_num_heads", Attr::Int(heads)),
            ("scale", Attr::Float(block.scale())),
        ],
    );
    t.as_rows(&out, block.heads * block.padded())
}

/// Adds cross-attention to the image, then the MLP. The rows of one image are its queries.
fn cross_attention(
    t: &mut Tower<'_>,
    block: &Block,
    stream: &Stream,
    step: &StepInputs,
    [key, value]: [&Value; 2],
    layer: usize,
) -> Result<Stream, ExportError> {
    let (normed, x) = t.norm_stream(&format!("{}.ln_1", block.prefix), stream, block.width)?;
    let query = t.project_query(block, &normed)?;
    let query = t.g.op("Reshape", &[&query, &step.queries], &[]);
    let out = t.attention(block, [&query, key, value], None);
    let out = t.as_rows(&out, block.heads * block.padded());
    let value_bias = |r: &TensorReader| image_encoder::cross_value_bias(r, layer, block.width);
    let x = t.attention_out(block, &out, &x, Some(&value_bias))?;
    t.mlp(block, &x)
}
