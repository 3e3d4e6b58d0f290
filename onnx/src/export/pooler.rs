//! The attentional pooler: learnt queries that attend to tokens of an image. A CoCa has one, or two with this crate's model
//! extensions; a SigLIP's, with one query, has no LayerNorms.
//!
//! The queries do not depend on the image: they are normalised and projected at export, in f64.

use super::{
    blocks::{Block, Stream},
    error::ExportError,
    fold::{add_product, pad_head_rows},
    graph::Value,
    linear::Linear,
    tower::{LAYER_NORM_EPSILON, Tower},
};
use crate::checkpoint::TensorReader;

/// The tokens that a pooler attends to, `[N * tokens, width]`.
#[derive(Clone, Copy)]
pub(super) struct PoolerInput {
    /// Tokens per image.
    pub(super) tokens: usize,
    /// Width of a token.
    pub(super) width: usize,
}

/// Names and sizes of a pooler.
pub(super) struct Pooler<'a> {
    /// Prefix of its tensors, without the last dot.
    pub(super) prefix: &'a str,
    /// Number of queries.
    pub(super) queries: usize,
    /// Attention heads.
    pub(super) heads: usize,
    /// Width of queries and outputs, `E`.
    pub(super) embed_dim: usize,
    /// The tokens it attends to.
    pub(super) input: PoolerInput,
    /// Whether queries and tokens are normalised first, by `ln_q` and `ln_k`.
    pub(super) has_norms: bool,
}

/// Builds a pooler over `stream [N * tokens, width]`; returns `[N * queries, E]`, not normalised.
pub(super) fn build(t: &mut Tower<'_>, p: &Pooler<'_>, stream: &Stream) -> Result<Value, ExportError> {
    let (prefix, e, w) = (p.prefix, p.embed_dim, p.input.width);
    let block = Block { prefix: prefix.into(), width: e, heads: p.heads, mlp_width: 0, layer_scale: false };
    let (dim, padded) = (block.head_dim(), block.padded());
    let inner = p.heads * padded;
    let x = match p.has_norms {
        true => t.norm_stream(&format!("{prefix}.ln_k"), stream, w)?.0,
        false => t.whole_stream(stream),
    };
    let mut kv = Vec::with_capacity(2);
    for (part, letter) in [(1, 'k'), (2, 'v')] {
        let (weight, bias) =
            (format!("{prefix}.attn.{letter}_weight"), format!("{prefix}.attn.{letter}_bias"));
        // In fused graphs biases are folded away, see `Tower::attention_out`.
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
        kv.push(t.as_batch(&rows, p.input.tokens, inner));
    }
    let query = t.derived_weight(&format!("{prefix}.projected_query"), &[1, p.queries, inner], |r| {
        Ok(pad_head_rows(&project_queries(r, p)?, dim, padded, 1))
    })?;
    let query = t.repeat(&query, &kv[0], [p.queries as i64, inner as i64]);
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

/// Returns the query, key or value weight (`part` 0, 1, 2): `nn.MultiheadAttention` packs the three if keys are as wide as
/// queries, and stores them separately if not.
fn part_weight(r: &TensorReader, p: &Pooler<'_>, part: usize) -> Result<Vec<f32>, ExportError> {
    const NAMES: [&str; 3] = ["q_proj_weight", "k_proj_weight", "v_proj_weight"];
    let (e, w) = (p.embed_dim, p.input.width);
    if e == w {
        let packed = r.get(&format!("{}.attn.in_proj_weight", p.prefix), &[3 * e, e])?;
        return Ok(packed[part * e * e..(part + 1) * e * e].to_vec());
    }
    let columns = if part == 0 { e } else { w };
    Ok(r.get(&format!("{}.attn.{}", p.prefix, NAMES[part]), &[e, columns])?)
}

/// Computes `ln_q(query) @ Wq.T + bq`, `[queries, E]`, in f64.
fn project_queries(r: &TensorReader, p: &Pooler<'_>) -> Result<Vec<f32>, ExportError> {
    let e = p.embed_dim;
    let weight = part_weight(r, p, 0)?;
    let bias = r.get(&format!("{}.attn.in_proj_bias", p.prefix), &[3 * e])?;
    let mut out = Vec::with_capacity(p.queries * e);
    for query in queries(r, p)?.chunks_exact(e) {
        for (w, b) in weight.chunks_exact(e).zip(&bias) {
            let dot: f64 = w.iter().zip(query).map(|(w, x)| f64::from(*w) * x).sum();
            out.push((dot + f64::from(*b)) as f32);
        }
    }
    Ok(out)
}

/// Returns the queries `[queries, E]`, normalised by `ln_q` if there is one.
fn queries(r: &TensorReader, p: &Pooler<'_>) -> Result<Vec<f64>, ExportError> {
    let (prefix, e) = (p.prefix, p.embed_dim);
    let query = r.get(&format!("{prefix}.query"), &[p.queries, e])?;
    if !p.has_norms {
        return Ok(query.into_iter().map(f64::from).collect());
    }
    let gain = r.get(&format!("{prefix}.ln_q.weight"), &[e])?;
    let shift = r.get(&format!("{prefix}.ln_q.bias"), &[e])?;
    let mut out = Vec::with_capacity(p.queries * e);
    for row in query.chunks_exact(e) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / e as f64;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / e as f64;
        let scale = 1.0 / (variance + f64::from(LAYER_NORM_EPSILON)).sqrt();
        out.extend(
            (0..e).map(|i| (f64::from(row[i]) - mean) * scale * f64::from(gain[i]) + f64::from(shift[i])),
        );
    }
    Ok(out)
}
