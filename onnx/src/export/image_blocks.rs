//! The residual blocks of image towers: CLIP's and EVA's, with rotary positions where a tower has them.

use super::{
    blocks::{Block, Stream, packed_bias},
    error::ExportError,
    graph::Value,
    tower::Tower,
};
use crate::checkpoint::{ImageBlocks, RotaryPositions, TensorReader, VisionConfig};

/// Ratio of the wavelengths of the lowest and the highest frequency of rotary positions (`rope_temperature`).
const TEMPERATURE: f64 = 10_000.0;

/// A block of an image tower.
pub(super) struct ImageBlock<'a> {
    /// Names and sizes.
    pub(super) block: Block,
    /// Which block it is.
    pub(super) kind: ImageBlocks,
    /// Tokens of an image.
    pub(super) tokens: usize,
    /// Rotary positions, if it has them.
    pub(super) rotary: Option<&'a Rotary>,
    /// Whether the class token alone is computed: the result is `[N, W]`.
    pub(super) class_only: bool,
}

/// Rotary positions as constants of a graph.
pub(super) struct Rotary {
    /// Cosines of each token's angles, `[tokens, 1, D]`; 1 of the class token.
    cosines: Value,
    /// Sines, `[tokens, 1, D]`; 0 of the class token.
    sines: Value,
    /// `x -> x @ turned` is `(-x1, x0, -x3, x2, ..)`, `[D, D]`.
    turned: Value,
}

/// Adds the constants of a tower's rotary positions, if it has them.
pub(super) fn rotary(t: &mut Tower<'_>, v: &VisionConfig) -> Result<Option<Rotary>, ExportError> {
    let Some(positions) = v.rotary else { return Ok(None) };
    let dim = v.width / v.heads;
    let angles = angles(positions, v.grid(), dim / 4);
    let shape = [v.tokens(), 1, dim];
    let class = v.tokens() - angles.len();
    // Each angle turns two numbers.
    let table = |of_class: f32, of: fn(f64) -> f64| -> Vec<f32> {
        let patches = angles.iter().flatten().flat_map(|angle| [of(*angle) as f32; 2]);
        std::iter::repeat_n(of_class, class * dim).chain(patches).collect()
    };
    Ok(Some(Rotary {
        cosines: t.derived_weight("visual.rotary.cosines", &shape, |_| Ok(table(1.0, f64::cos)))?,
        sines: t.derived_weight("visual.rotary.sines", &shape, |_| Ok(table(0.0, f64::sin)))?,
        turned: t.derived_weight("visual.rotary.turned", &[dim, dim], |_| {
            let entry = |row: usize, column: usize| match (row % 2, column) {
                (0, _) if column == row + 1 => 1.0,
                (1, _) if column + 1 == row => -1.0,
                _ => 0.0,
            };
            Ok((0..dim * dim).map(|i| entry(i / dim, i % dim)).collect())
        })?,
    }))
}

/// Returns the angles of each patch, row by row: `bands` of one coordinate, then of the other.
fn angles(r: RotaryPositions, grid: usize, bands: usize) -> Vec<Vec<f64>> {
    let frequency = |band: usize| TEMPERATURE.powf(-(band as f64) / bands as f64);
    let coordinate = |at: usize| (at as f64 + f64::from(r.offset)) / grid as f64 * r.grid as f64;
    let patch = |i: usize| -> Vec<f64> {
        let (row, column) = (coordinate(i / grid), coordinate(i % grid));
        let pair = if r.is_column_first { [column, row] } else { [row, column] };
        pair.into_iter().flat_map(|at| (0..bands).map(move |band| at * frequency(band))).collect()
    };
    (0..grid * grid).map(patch).collect()
}

/// Adds a block; `stream` is `[N * tokens, W]`, and so is the result, or `[N, W]` of the class token alone.
pub(super) fn build(t: &mut Tower<'_>, b: &ImageBlock<'_>, stream: &Stream) -> Result<Stream, ExportError> {
    if b.kind == ImageBlocks::PostNorm {
        return post_norm(t, b, stream);
    }
    let (prefix, width) = (&b.block.prefix, b.block.width);
    let (normed, x) = t.norm_stream(&format!("{prefix}.ln_1"), stream, width)?;
    let attended = attend(t, b, &normed)?;
    let residual = if b.class_only { class_token(t, b, &x) } else { x };
    let attn = format!("{prefix}.attn");
    let value_bias = |r: &TensorReader| Ok(packed_bias(r, &attn, width)?[2 * width..].to_vec());
    if b.kind != ImageBlocks::SubNorm {
        let x = t.attention_out(&b.block, &attended, &residual, Some(&value_bias))?;
        return t.mlp(&b.block, &x);
    }
    // The values' bias passes through the attention, but not through the norm after it.
    let attended = if t.is_fused() {
        let bias = t.derived_weight(&format!("{attn}.value_bias"), &[width], value_bias)?;
        t.g.op("Add", &[&attended, &bias], &[])
    } else {
        attended
    };
    let attended = t.layer_norm(&format!("{attn}.ln_inner"), &attended, width)?;
    let x = t.attention_out(&b.block, &attended, &residual, None)?;
    gated_mlp(t, &b.block, &x)
}

/// Adds a block whose norms come after attention and MLP.
fn post_norm(t: &mut Tower<'_>, b: &ImageBlock<'_>, stream: &Stream) -> Result<Stream, ExportError> {
    let (prefix, width, mlp_width) = (&b.block.prefix, b.block.width, b.block.mlp_width);
    let x = t.whole_stream(stream);
    let attended = attend(t, b, &x)?;
    let x = if b.class_only { class_token(t, b, &x) } else { x };
    let attn = format!("{prefix}.attn");
    let value_bias = |r: &TensorReader| Ok(packed_bias(r, &attn, width)?[2 * width..].to_vec());
    let out = t.attention_product(&b.block, &attended, Some(&value_bias))?;
    let out = t.with_bias(out);
    let out = t.layer_norm(&format!("{prefix}.ln_1"), &out, width)?;
    let x = t.g.op("Add", &[&x, &out], &[]);
    let hidden = t.linear(&format!("{prefix}.mlp.c_fc"), &x, [mlp_width, width], None)?;
    let active = t.activate(hidden);
    let out = t.linear(&format!("{prefix}.mlp.c_proj"), &active, [width, mlp_width], None)?;
    let out = t.with_bias(out);
    let out = t.layer_norm(&format!("{prefix}.ln_2"), &out, width)?;
    Ok(Stream::Whole(t.g.op("Add", &[&x, &out], &[])))
}

/// Adds SwiGLU and the residual: `x + c_proj(norm(silu(c_gate(ln_2(x))) * c_fc(ln_2(x))))`.
fn gated_mlp(t: &mut Tower<'_>, block: &Block, stream: &Stream) -> Result<Stream, ExportError> {
    let (p, sizes) = (&block.prefix, [block.mlp_width, block.width]);
    let (normed, x) = t.norm_stream(&format!("{p}.ln_2"), stream, block.width)?;
    let gate = t.linear(&format!("{p}.mlp.c_gate"), &normed, sizes, None)?;
    let gate = t.with_bias(gate);
    let hidden = t.linear(&format!("{p}.mlp.c_fc"), &normed, sizes, None)?;
    let hidden = t.with_bias(hidden);
    let open = t.g.op("Sigmoid", &[&gate], &[]);
    let gate = t.g.op("Mul", &[&gate, &open], &[]);
    let hidden = t.g.op("Mul", &[&gate, &hidden], &[]);
    let hidden = t.layer_norm(&format!("{p}.mlp.ln_inner"), &hidden, block.mlp_width)?;
    let out = t.linear(&format!("{p}.mlp.c_proj"), &hidden, [block.width, block.mlp_width], None)?;
    Ok(t.add_to_stream(&x, out))
}

/// Adds a self-attention without its output projection: `[N * tokens, W] -> [N * tokens, H * D]`, or `[N, H * D]` of the class token.
fn attend(t: &mut Tower<'_>, b: &ImageBlock<'_>, x: &Value) -> Result<Value, ExportError> {
    let (block, tokens) = (&b.block, b.tokens);
    let inner = block.heads * block.padded();
    let (queried, queries) = if b.class_only { (class_token(t, b, x), 1) } else { (x.clone(), tokens) };
    let mut project = |x: &Value, part: usize, tokens: usize| -> Result<Value, ExportError> {
        let rows = t.project_part(block, x, part)?;
        Ok(t.as_batch(&rows, tokens, inner))
    };
    let query = project(&queried, 0, queries)?;
    let (key, value) = (project(x, 1, tokens)?, project(x, 2, tokens)?);
    let (query, key) = match b.rotary {
        None => (query, key),
        Some(r) => {
            let key = with_key_bias(t, b, key)?;
            // The class token is not turned.
            (if b.class_only { query } else { turn(t, b, r, &query) }, turn(t, b, r, &key))
        }
    };
    let out = t.image_attention(block, [&query, &key, &value], queries);
    Ok(t.as_rows(&out, inner))
}

/// Adds the bias of keys that are turned. Fused graphs leave out that of others, which adds the same to all scores of a query.
fn with_key_bias(t: &mut Tower<'_>, b: &ImageBlock<'_>, key: Value) -> Result<Value, ExportError> {
    if !t.is_fused() || !b.kind.has_key_bias() {
        return Ok(key);
    }
    let (attn, w) = (format!("{}.attn", b.block.prefix), b.block.width);
    let bias = t.derived_weight(&format!("{attn}.turned_key_bias"), &[w], |r| {
        Ok(packed_bias(r, &attn, w)?[w..2 * w].to_vec())
    })?;
    Ok(t.g.op("Add", &[&key, &bias], &[]))
}

/// Turns queries or keys by their tokens' angles: `[N, tokens, H * D]`.
fn turn(t: &mut Tower<'_>, b: &ImageBlock<'_>, r: &Rotary, x: &Value) -> Value {
    let (tokens, heads, dim) = (b.tokens as i64, b.block.heads as i64, b.block.head_dim() as i64);
    let shape = t.g.ints(&[-1, tokens, heads, dim]);
    let x = t.g.op("Reshape", &[x, &shape], &[]);
    let turned = t.g.op("MatMul", &[&x, &r.turned], &[]);
    let turned = t.g.op("Mul", &[&turned, &r.sines], &[]);
    let x = t.g.op("Mul", &[&x, &r.cosines], &[]);
    let x = t.g.op("Add", &[&x, &turned], &[]);
    t.as_batch(&x, b.tokens, b.block.heads * b.block.head_dim())
}

/// Selects the class token of each image: `[N * tokens, W] -> [N, W]`.
fn class_token(t: &mut Tower<'_>, b: &ImageBlock<'_>, x: &Value) -> Value {
    let x = t.as_batch(x, b.tokens, b.block.width);
    t.first_token(&x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_those_of_row_and_column() {
        let r = RotaryPositions { grid: 4, offset: 1.0, is_column_first: true };
        let found = angles(r, 2, 2);
        // The grid of two is spread over four; frequencies are 1 and 1/100.
        assert_eq!(found[1], [4.0, 0.04, 2.0, 0.02]);
        assert_eq!(found[2], [2.0, 0.02, 4.0, 0.04]);
        let row_first = angles(RotaryPositions { offset: 0.0, is_column_first: false, ..r }, 2, 2);
        assert_eq!(row_first[2], [2.0, 0.02, 0.0, 0.0]);
    }
}
