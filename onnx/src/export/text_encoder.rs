//! `text_encoder.onnx`: `ids` i64 `[N, T]`, padded with 0 -> `text_features` f32 `[N, E]`.
//!
//! CoCa: the CLS embedding is appended last, always at the position after the whole context, so a text may have any `T` up
//! to the context length if at least one padding id follows its end (or `T` is the context length); the result is that of
//! open_clip for the text padded to the context length. The released masks are kept: key 0 is always
//! visible, key i > 0 is visible where `ids[i - 1]` is not padding, for every query row.
//!
//! CLIP: the embedding is the end token's, the first of the largest ids, as in open_clip. The tower is causal, so nothing after
//! that token matters and any `T` that includes it will do.
//!
//! SigLIP, CLIPA: the embedding is the last token's, and tokens attend to all others, padding too; `T` is the context length.

use super::{
    blocks::{Block, Stream},
    error::ExportError,
    graph::{Attr, DType, Dim, Value},
    tower::Tower,
};
use crate::{
    checkpoint::{ModelConfig, TextPooling},
    model::IMAGES,
};

/// Returns a block of the text tower, shared with a decoder that reads its output.
pub(super) fn block(c: &ModelConfig, layer: usize) -> Block {
    Block {
        prefix: format!("{}transformer.resblocks.{layer}", c.text.prefix),
        width: c.text.width,
        heads: c.text.heads,
        mlp_width: c.text.mlp_width,
        layer_scale: c.text.layer_scale.is_some(),
    }
}

/// Values that all layers read. `L` is the number of tokens: `T + 1` with a CLS embedding, else `T`.
struct Sequence {
    /// `[N, L, W]` as a shape.
    tokens: Value,
    /// `[N, L, H * D]` as a shape.
    heads: Value,
    /// Which keys a query may attend to, bool `[N or 1, 1, L, L]`; `None` for all.
    mask: Option<Value>,
    /// The row that becomes the embedding.
    pooled: Pooled,
}

/// Which row of a text becomes its embedding.
enum Pooled {
    /// The last row.
    Last,
    /// One index per text, `[N]`.
    At(Value),
}

/// Builds the graph.
pub(super) fn build(t: &mut Tower<'_>, c: &ModelConfig) -> Result<(), ExportError> {
    (t.activation, t.epsilon) = (c.text.activation, c.text.epsilon);
    let ids = t.g.input("ids", DType::I64, &[Dim::Named(IMAGES), Dim::Named("tokens")]);
    let (width, prefix) = (c.text.width, c.text.prefix);
    let x = match c.text.pooling {
        TextPooling::ClassToken => embed_with_class(t, c, &ids)?,
        TextPooling::EndToken | TextPooling::FirstOf(_) | TextPooling::Last => {
            embed(t, c, &ids, c.text.context_length)?
        }
    };
    let sequence = sequence(t, c, &ids, &x);
    let mut x = Stream::Whole(t.as_rows(&x, width));
    for layer in 0..c.text.layers {
        // Only one row is read after the last block, so only it is computed there.
        let pooled_only = layer + 1 == c.text.layers;
        x = self_attention(t, &block(c, layer), &x, &sequence, pooled_only)?;
        x = t.mlp(&block(c, layer), &x)?;
    }
    let (x, _) = t.norm_stream(&format!("{prefix}ln_final"), &x, width)?;
    let name = format!("{prefix}text_projection");
    let x = t.project_pooled(&x, &name, c.text.projection, [width, c.embed_dim])?;
    let x = t.cast_to_f32(&x);
    let output =
        t.g.declare_output("text_features", DType::F32, &[Dim::Named(IMAGES), Dim::Fixed(c.embed_dim)]);
    t.l2_normalise(&x, &output);
    Ok(())
}

/// Adds token and position embeddings, `[N, T, W]`; the checkpoint has `places` positions.
fn embed(t: &mut Tower<'_>, c: &ModelConfig, ids: &Value, places: usize) -> Result<Value, ExportError> {
    let (width, prefix) = (c.text.width, c.text.prefix);
    let embedding =
        t.checkpoint_weight(&format!("{prefix}token_embedding.weight"), &[c.text.vocab_size, width])?;
    let positions = t.checkpoint_weight(&format!("{prefix}positional_embedding"), &[places, width])?;
    let x = t.g.op("Gather", &[&embedding, ids], &[]);
    let length = t.g.op("Shape", &[ids], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
    let (zero, axis) = (t.g.ints(&[0]), t.g.ints(&[0]));
    let positions = t.g.op("Slice", &[&positions, &zero, &length, &axis], &[]);
    Ok(t.g.op("Add", &[&x, &positions], &[]))
}

/// Adds token and position embeddings with the CLS embedding last, `[N, T + 1, W]`.
fn embed_with_class(t: &mut Tower<'_>, c: &ModelConfig, ids: &Value) -> Result<Value, ExportError> {
    let (width, context) = (c.text.width, c.text.context_length);
    let x = embed(t, c, ids, context + 1)?;
    let cls = t.derived_weight("text.cls_token", &[1, 1, width], |r| {
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

fn sequence(t: &mut Tower<'_>, c: &ModelConfig, ids: &Value, x: &Value) -> Sequence {
    let leading = t.g.op("Shape", &[x], &[("start", Attr::Int(0)), ("end", Attr::Int(2))]);
    let mut with = |n: usize| {
        let last = t.g.ints(&[n as i64]);
        t.g.op("Concat", &[&leading, &last], &[("axis", Attr::Int(0))])
    };
    let (tokens, heads) = (with(c.text.width), with(block(c, 0).heads * block(c, 0).padded()));
    let mask = c.text.is_causal.then(|| {
        let length = t.g.op("Shape", &[x], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
        let causal = causal(t, &length);
        match c.text.pooling {
            TextPooling::ClassToken => {
                let keys = visible_keys(t, ids);
                t.g.op("And", &[&keys, &causal], &[])
            }
            TextPooling::EndToken | TextPooling::FirstOf(_) | TextPooling::Last => {
                let axes = t.g.ints(&[0, 1]);
                t.g.op("Unsqueeze", &[&causal, &axes], &[])
            }
        }
    });
    let pooled = match c.text.pooling {
        TextPooling::ClassToken | TextPooling::Last => Pooled::Last,
        TextPooling::EndToken => Pooled::At(first_largest(t, ids)),
        TextPooling::FirstOf(id) => {
            let id = t.g.int(id);
            let found = t.g.op("Equal", &[ids, &id], &[]);
            let found = t.g.op("Cast", &[&found], &[("to", Attr::Int(DType::I64.code().into()))]);
            Pooled::At(first_largest(t, &found))
        }
    };
    Sequence { tokens, heads, mask, pooled }
}

/// Returns the index of the first of the largest numbers of each row: `[N, T] -> [N]`.
fn first_largest(t: &mut Tower<'_>, x: &Value) -> Value {
    t.g.op("ArgMax", &[x], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(0))])
}

/// Returns bool `[L, L]`: whether the key (column) is at or before the query (row). `length` is `[1]`.
fn causal(t: &mut Tower<'_>, length: &Value) -> Value {
    let axis = t.g.ints(&[0]);
    let length = t.g.op("Squeeze", &[length, &axis], &[]);
    let (zero, step) = (t.g.int(0), t.g.int(1));
    let range = t.g.op("Range", &[&zero, &length, &step], &[]);
    let (row_axis, column_axis) = (t.g.ints(&[1]), t.g.ints(&[0]));
    let rows = t.g.op("Unsqueeze", &[&range, &row_axis], &[]);
    let columns = t.g.op("Unsqueeze", &[&range, &column_axis], &[]);
    t.g.op("LessOrEqual", &[&columns, &rows], &[])
}

/// Returns bool `[N, 1, 1, T + 1]`: which keys are not padding, by the released weights' shifted rule.
fn visible_keys(t: &mut Tower<'_>, ids: &Value) -> Value {
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
    t.g.op("Unsqueeze", &[&keys, &axes], &[])
}

/// Adds a self-attention; `stream` is `[N * L, W]`, and so is the result, or `[N, W]` with `pooled_only`.
fn self_attention(
    t: &mut Tower<'_>,
    block: &Block,
    stream: &Stream,
    sequence: &Sequence,
    pooled_only: bool,
) -> Result<Stream, ExportError> {
    let (normed, x) = t.norm_stream(&format!("{}.ln_1", block.prefix), stream, block.width)?;
    let inner = block.heads * block.padded();
    let (query, residual, mask) = if pooled_only {
        let residual = pooled_token(t, &x, sequence);
        (pooled_token(t, &normed, sequence), residual, pooled_mask(t, sequence))
    } else {
        (normed.clone(), x, sequence.mask.clone())
    };
    let [query, key, value] = if t.is_fused() {
        let [all_queries, key, value] = t.project_thirds(block, &normed)?;
        if pooled_only {
            let [query, ..] = t.project_thirds(block, &query)?;
            [query, key, value]
        } else {
            [all_queries, key, value]
        }
    } else {
        [
            t.project_part(block, &query, 0)?,
            t.project_part(block, &normed, 1)?,
            t.project_part(block, &normed, 2)?,
        ]
    };
    let query = if pooled_only {
        t.as_batch(&query, 1, inner)
    } else {
        t.g.op("Reshape", &[&query, &sequence.heads], &[])
    };
    let key = t.g.op("Reshape", &[&key, &sequence.heads], &[]);
    let value = t.g.op("Reshape", &[&value, &sequence.heads], &[]);
    let out = t.attention(block, [&query, &key, &value], mask.as_ref());
    let out = t.as_rows(&out, inner);
    t.attention_out(block, &out, &residual, None)
}

/// Selects the embedding's row of every text: `[N * L, W] -> [N, W]`.
fn pooled_token(t: &mut Tower<'_>, x: &Value, sequence: &Sequence) -> Value {
    let x = t.g.op("Reshape", &[x, &sequence.tokens], &[]);
    match &sequence.pooled {
        Pooled::Last => {
            let last = t.g.int(-1);
            t.g.op("Gather", &[&x, &last], &[("axis", Attr::Int(1))])
        }
        Pooled::At(rows) => {
            let axis = t.g.ints(&[1]);
            let rows = t.g.op("Unsqueeze", &[rows, &axis], &[]);
            t.g.op("GatherND", &[&x, &rows], &[("batch_dims", Attr::Int(1))])
        }
    }
}

/// Selects the embedding's row of the mask, `[N, 1, 1, L]`, if there is a mask.
fn pooled_mask(t: &mut Tower<'_>, sequence: &Sequence) -> Option<Value> {
    let mask = sequence.mask.as_ref()?;
    Some(match &sequence.pooled {
        Pooled::Last => {
            let last = t.g.ints(&[-1]);
            t.g.op("Gather", &[mask, &last], &[("axis", Attr::Int(2))])
        }
        Pooled::At(rows) => {
            // [1, 1, L, L] by [N] is [1, 1, N, L]; texts go to the front.
            let mask = t.g.op("Gather", &[mask, rows], &[("axis", Attr::Int(2))]);
            t.g.op("Transpose", &[&mask], &[("perm", Attr::Ints(&[2, 0, 1, 3]))])
        }
    })
}
