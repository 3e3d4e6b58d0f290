//! `text_encoder.onnx`: `ids` i64 `[N, T]`, padded with 0 -> `text_features` f32 `[N, E]`.
//!
//! The CLS embedding is appended last, always at the position after the whole context, so a text may be given with any
//! `T` up to the context length as long as at least one padding id follows its end (or `T` is the context length): what
//! open_clip computes of the text padded to the context length comes out. Its released masks are kept: key 0 is always
//! visible, key i > 0 is visible where `ids[i - 1]` is not padding, for every query row.

use super::{
    ExportError,
    blocks::{Block, Tower},
    graph::{Attr, DType, Dim, Value},
};
use crate::{checkpoint::CocaConfig, model::IMAGES};

/// The blocks of the text tower, shared with the decoder.
pub fn block(c: &CocaConfig, layer: usize) -> Block {
    Block {
        prefix: format!("text.transformer.resblocks.{layer}"),
        width: c.text.width,
        heads: c.text.heads,
        mlp_width: c.text.mlp_width,
        layer_scale: c.text.layer_scale,
    }
}

/// Shapes that depend on the input's size.
struct Sizes {
    /// `[N, T + 1, W]`.
    tokens: Value,
    /// `[N, T + 1, H * D]`.
    heads: Value,
}

/// Adds the whole graph.
pub fn build(t: &mut Tower<'_>, c: &CocaConfig) -> Result<(), ExportError> {
    let ids = t.g.input("ids", DType::I64, &[Dim::Named(IMAGES), Dim::Named("tokens")]);
    let width = c.text.width;
    let x = embed(t, c, &ids)?;
    let mask = mask(t, &ids);
    let sizes = sizes(t, &x, width, block(c, 0).heads * block(c, 0).padded());
    let mut x = t.as_rows(&x, width);
    for layer in 0..c.text.layers {
        // Only the CLS row is read after the last block, so only it is computed there.
        let cls_only = layer + 1 == c.text.layers;
        x = self_attention(t, &block(c, layer), &x, &mask, &sizes, cls_only)?;
        x = t.mlp(&block(c, layer), &x)?;
    }
    let x = t.layer_norm("text.ln_final", &x, width)?;
    let proj = t.tensor("text.text_projection", &[width, c.embed_dim])?;
    let x = t.g.op("MatMul", &[&x, &proj], &[]);
    let x = t.cast_to_f32(&x);
    let output =
        t.g.declare_output("text_features", DType::F32, &[Dim::Named(IMAGES), Dim::Fixed(c.embed_dim)]);
    t.l2_normalise(&x, &output);
    Ok(())
}

fn embed(t: &mut Tower<'_>, c: &CocaConfig, ids: &Value) -> Result<Value, ExportError> {
    let (width, context) = (c.text.width, c.text.context_length);
    let embedding = t.tensor("text.token_embedding.weight", &[c.text.vocab_size, width])?;
    let positions = t.tensor("text.positional_embedding", &[context + 1, width])?;
    let x = t.g.op("Gather", &[&embedding, ids], &[]);
    let length = t.g.op("Shape", &[ids], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
    let (zero, axis) = (t.g.ints(&[0]), t.g.ints(&[0]));
    let positions = t.g.op("Slice", &[&positions, &zero, &length, &axis], &[]);
    let x = t.g.op("Add", &[&x, &positions], &[]);
    let cls = t.made("text.cls_token", &[1, 1, width], |r| {
        let cls = r.get("text.cls_emb", &[width])?;
        let positions = r.get("text.positional_embedding", &[context + 1, width])?;
        Ok(cls.iter().zip(&positions[context * width..]).map(|(c, p)| c + p).collect())
    })?;
    let batch = t.g.op("Shape", &[ids], &[("start", Attr::Int(0)), ("end", Attr::Int(1))]);
    let rest = t.g.ints(&[1, width as i64]);
    let shape = t.g.op("Concat", &[&batch, &rest], &[("axis", Attr::Int(0))]);
    let cls = t.g.op("Expand", &[&cls, &shape], &[]);
    Ok(t.g.op("Concat", &[&x, &cls], &[("axis", Attr::Int(1))]))
}

/// `[N, 1, T + 1, T + 1]` of truth: which key a query row may see.
fn mask(t: &mut Tower<'_>, ids: &Value) -> Value {
    let pad = t.g.int(0);
    let is_pad = t.g.op("Equal", &[ids, &pad], &[]);
    let is_word = t.g.op("Not", &[&is_pad], &[]);
    let batch = t.g.op("Shape", &[ids], &[("start", Attr::Int(0)), ("end", Attr::Int(1))]);
    let one = t.g.ints(&[1]);
    let shape = t.g.op("Concat", &[&batch, &one], &[("axis", Attr::Int(0))]);
    let first = t.g.true_column();
    let first = t.g.op("Expand", &[&first, &shape], &[]);
    let keys = t.g.op("Concat", &[&first, &is_word], &[("axis", Attr::Int(1))]);
    let axes = t.g.ints(&[1, 2]);
    let keys = t.g.op("Unsqueeze", &[&keys, &axes], &[]);
    let length = t.g.op("Shape", &[ids], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
    let axis = t.g.ints(&[0]);
    let length = t.g.op("Squeeze", &[&length, &axis], &[]);
    let (zero, step) = (t.g.int(0), t.g.int(1));
    let length = t.g.op("Add", &[&length, &step], &[]);
    let range = t.g.op("Range", &[&zero, &length, &step], &[]);
    let (row_axis, column_axis) = (t.g.ints(&[1]), t.g.ints(&[0]));
    let rows = t.g.op("Unsqueeze", &[&range, &row_axis], &[]);
    let columns = t.g.op("Unsqueeze", &[&range, &column_axis], &[]);
    let causal = t.g.op("LessOrEqual", &[&columns, &rows], &[]);
    t.g.op("And", &[&keys, &causal], &[])
}

fn sizes(t: &mut Tower<'_>, x: &Value, width: usize, inner: usize) -> Sizes {
    let leading = t.g.op("Shape", &[x], &[("start", Attr::Int(0)), ("end", Attr::Int(2))]);
    let mut with = |n: usize| {
        let last = t.g.ints(&[n as i64]);
        t.g.op("Concat", &[&leading, &last], &[("axis", Attr::Int(0))])
    };
    Sizes { tokens: with(width), heads: with(inner) }
}

/// `x` is `[N * (T + 1), W]`; comes back so, or as `[N, W]` when only the CLS row is wanted.
fn self_attention(
    t: &mut Tower<'_>,
    block: &Block,
    x: &Value,
    mask: &Value,
    sizes: &Sizes,
    cls_only: bool,
) -> Result<Value, ExportError> {
    let normed = t.layer_norm(&format!("{}.ln_1", block.prefix), x, block.width)?;
    let inner = block.heads * block.padded();
    let key = t.project_part(block, &normed, 1)?;
    let key = t.g.op("Reshape", &[&key, &sizes.heads], &[]);
    let value = t.project_part(block, &normed, 2)?;
    let value = t.g.op("Reshape", &[&value, &sizes.heads], &[]);
    let (query, residual, mask) = if cls_only {
        let normed = last_token(t, &normed, sizes);
        let residual = last_token(t, x, sizes);
        let query = t.project_part(block, &normed, 0)?;
        let last = t.g.ints(&[-1]);
        let mask = t.g.op("Gather", &[mask, &last], &[("axis", Attr::Int(2))]);
        (t.as_batch(&query, 1, inner), residual, mask)
    } else {
        let query = t.project_part(block, &normed, 0)?;
        (t.g.op("Reshape", &[&query, &sizes.heads], &[]), x.clone(), mask.clone())
    };
    let out = t.attention(block, [&query, &key, &value], Some(&mask));
    let out = t.as_rows(&out, inner);
    t.attention_out(block, &out, &residual)
}

/// `[N * (T + 1), W] -> [N, W]`: the CLS row of every text.
fn last_token(t: &mut Tower<'_>, x: &Value, sizes: &Sizes) -> Value {
    let x = t.g.op("Reshape", &[x, &sizes.tokens], &[]);
    let last = t.g.int(-1);
    t.g.op("Gather", &[&x, &last], &[("axis", Attr::Int(1))])
}
