//! The attentional pooler: learnt queries that attend to tokens of an image. A CoCa has one, or two in our own variants.
//!
//! The queries do not depend on the image: they are normalised and projected here, once, in f64.

use super::{
    ExportError,
    blocks::{Block, LAYER_NORM_EPSILON, Stream, Tower, add_product, pad_head_rows},
    graph::Value,
    image_encoder::repeat,
    linear::Linear,
};
use crate::checkpoint::TensorReader;

/// What a pooler attends to: `[N * tokens, width]`.
#[derive(Clone, Copy)]
pub struct Context {
    /// Tokens per image.
    pub tokens: usize,
    /// Their width.
    pub width: usize,
}

/// One pooler.
pub struct Pooler<'a> {
    /// Prefix of its tensors, without the last dot.
    pub prefix: &'a str,
    /// Queries.
    pub queries: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of queries and outputs, `E`.
    pub embed_dim: usize,
    /// What it reads.
    pub context: Context,
}

/// `stream` is `[N * tokens, width]` of the context; comes back as `[N * queries, E]`, not normalised.
pub fn attend(t: &mut Tower<'_>, p: &Pooler<'_>, stream: &Stream) -> Result<Value, ExportError> {
    let (prefix, e, w) = (p.prefix, p.embed_dim, p.context.width);
    let block = Block { prefix: prefix.into(), width: e, heads: p.heads, mlp_width: 0, layer_scale: false };
    let (dim, padded) = (block.head_dim(), block.padded());
    let inner = p.heads * padded;
    let (x, _) = t.norm_stream(&format!("{prefix}.ln_k"), stream, w)?;
    let mut kv = Vec::with_capacity(2);
    for (part, letter) in [(1, 'k'), (2, 'v')] {
        let (weight, bias) =
            (format!("{prefix}.attn.{letter}_weight"), format!("{prefix}.attn.{letter}_bias"));
        // Where the graph is fused, biases are folded away as `Tower::attention_out` says.
        let bias = (!t.is_fused()).then_some(bias.as_str());
        let rows = t.project(
            &x,
            &Linear { weight: &weight, bias, sizes: [inner, w] },
            |r| Ok(pad_head_rows(&part_weight(r, p, part)?, dim, padded, w)),
            |r| {
                let packed = r.get(&format!("{prefix}.attn.in_proj_bias"), &[3 * e])?;
                Ok(pad_head_rows(&packed[part * e..(part + 1) * e], dim, padded, 1))
            },
        )?;
        kv.push(t.as_batch(&rows, p.context.tokens, inner));
    }
    let query = t.made(&format!("{prefix}.projected_query"), &[1, p.queries, inner], |r| {
        Ok(pad_head_rows(&project_queries(r, p)?, dim, padded, 1))
    })?;
    let query = repeat(t, &query, &kv[0], [p.queries as i64, inner as i64]);
    let out = t.attention(&block, [&query, &kv[0], &kv[1]], None);
    let out = t.as_rows(&out, inner);
    let fused = t.is_fused();
    let (weight, bias) = (format!("{prefix}.attn.out_proj.weight"), format!("{prefix}.attn.out_proj.bias"));
    t.project(
        &out,
        &Linear { weight: &weight, bias: Some(&bias), sizes: [e, inner] },
        |r| Ok(pad_head_rows(&r.get(&weight, &[e, e])?, dim, padded, 1)),
        |r| {
            let plain = r.get(&bias, &[e])?;
            if !fused {
                return Ok(plain);
            }
            let value_bias = &r.get(&format!("{prefix}.attn.in_proj_bias"), &[3 * e])?[2 * e..];
            Ok(add_product(&plain, &r.get(&weight, &[e, e])?, value_bias))
        },
    )
}

/// Query, key or value weight (`part` 0, 1, 2): `nn.MultiheadAttention` packs the three when key and query have one
/// width, and keeps them apart when not.
fn part_weight(r: &TensorReader, p: &Pooler<'_>, part: usize) -> Result<Vec<f32>, ExportError> {
    const NAMES: [&str; 3] = ["q_proj_weight", "k_proj_weight", "v_proj_weight"];
    let (e, w) = (p.embed_dim, p.context.width);
    if e == w {
        let packed = r.get(&format!("{}.attn.in_proj_weight", p.prefix), &[3 * e, e])?;
        return Ok(packed[part * e * e..(part + 1) * e * e].to_vec());
    }
    let columns = if part == 0 { e } else { w };
    Ok(r.get(&format!("{}.attn.{}", p.prefix, NAMES[part]), &[e, columns])?)
}

/// `ln_q(query) @ Wq.T + bq`: `[queries, E]`, in f64.
fn project_queries(r: &TensorReader, p: &Pooler<'_>) -> Result<Vec<f32>, ExportError> {
    let (prefix, e, queries) = (p.prefix, p.embed_dim, p.queries);
    let query = r.get(&format!("{prefix}.query"), &[queries, e])?;
    let gain = r.get(&format!("{prefix}.ln_q.weight"), &[e])?;
    let shift = r.get(&format!("{prefix}.ln_q.bias"), &[e])?;
    let weight = part_weight(r, p, 0)?;
    let bias = r.get(&format!("{prefix}.attn.in_proj_bias"), &[3 * e])?;
    let mut out = Vec::with_capacity(queries * e);
    for row in query.chunks_exact(e) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / e as f64;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / e as f64;
        let scale = 1.0 / (variance + f64::from(LAYER_NORM_EPSILON)).sqrt();
        let normed: Vec<f64> = (0..e)
            .map(|i| (f64::from(row[i]) - mean) * scale * f64::from(gain[i]) + f64::from(shift[i]))
            .collect();
        for (w, b) in weight.chunks_exact(e).zip(&bias) {
            let dot: f64 = w.iter().zip(&normed).map(|(w, x)| f64::from(*w) * x).sum();
            out.push((dot + f64::from(*b)) as f32);
        }
    }
    Ok(out)
}
