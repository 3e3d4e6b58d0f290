//! The output `image_features` of the image encoder: what of the tokens is pooled, and how that is projected.

use super::{
    blocks::{Block, Stream},
    error::ExportError,
    graph::{Attr, DType, Dim, Value},
    pooler::{self, Pooler, PoolerInput},
    tower::Tower,
};
use crate::{
    checkpoint::{ImagePooling, ModelConfig},
    model::IMAGES,
};

/// Prefix of the tensors of the pooling by a query.
const ATTENTION_POOL: &str = "visual.attn_pool";

/// Adds the output of a model without a decoder. `x` holds the tokens `[N * tokens, W]`, or, where the class token is pooled, that alone,
/// `[N, W]`.
pub(super) fn build(t: &mut Tower<'_>, c: &ModelConfig, x: &Stream) -> Result<(), ExportError> {
    let width = c.vision.width;
    let pooled = match c.vision.pooling {
        ImagePooling::ClassToken => t.norm_stream("visual.ln_post", x, width)?.0,
        ImagePooling::Mean { norm_first: true } => {
            let (x, _) = t.norm_stream("visual.ln_post", x, width)?;
            mean_of_patches(t, c, &x)
        }
        ImagePooling::Mean { norm_first: false } => {
            let x = t.whole_stream(x);
            let mean = mean_of_patches(t, c, &x);
            t.layer_norm("visual.ln_post", &mean, width)?
        }
        ImagePooling::Attention { heads, mlp_width } => attention_pool(t, c, x, [heads, mlp_width])?,
    };
    project(t, c, &pooled, width)
}

/// Returns the mean of an image's patches, without the class token: `[N * tokens, W] -> [N, W]`.
fn mean_of_patches(t: &mut Tower<'_>, c: &ModelConfig, x: &Value) -> Value {
    let (tokens, width) = (c.vision.tokens(), c.vision.width);
    let x = t.as_batch(x, tokens, width);
    let (starts, ends, axes) = (t.g.ints(&[1]), t.g.ints(&[tokens as i64]), t.g.ints(&[1]));
    let patches = t.g.op("Slice", &[&x, &starts, &ends, &axes], &[]);
    t.g.op("ReduceMean", &[&patches, &axes], &[("keepdims", Attr::Int(0))])
}

/// Returns what a learnt query attends to among the normalised tokens, plus an MLP of it, `[N, W]` (MAP: Zhai et al. 2022, "Scaling Vision
/// Transformers").
fn attention_pool(
    t: &mut Tower<'_>,
    c: &ModelConfig,
    x: &Stream,
    [heads, mlp_width]: [usize; 2],
) -> Result<Value, ExportError> {
    let v = &c.vision;
    let (tokens, _) = t.norm_stream("visual.ln_post", x, v.width)?;
    let pooler = Pooler {
        prefix: ATTENTION_POOL,
        queries: 1,
        heads,
        embed_dim: v.width,
        input: PoolerInput { tokens: v.tokens(), width: v.width },
        has_norms: false,
    };
    let pooled = pooler::build(t, &pooler, &Stream::Whole(tokens))?;
    let block = Block { prefix: ATTENTION_POOL.into(), width: v.width, heads, mlp_width, layer_scale: false };
    let sum = t.mlp(&block, &Stream::Whole(pooled))?;
    Ok(t.whole_stream(&sum))
}

/// Adds the output: the pooled token `[N, width]`, projected and normalised.
pub(super) fn project(
    t: &mut Tower<'_>,
    c: &ModelConfig,
    pooled: &Value,
    width: usize,
) -> Result<(), ExportError> {
    let e = c.embed_dim;
    let projected = t.project_pooled(pooled, "visual.proj", c.vision.projection, [width, e])?;
    let projected = t.cast_to_f32(&projected);
    let shape = [Dim::Named(IMAGES), Dim::Fixed(e)];
    let output = t.g.declare_output("image_features", DType::F32, &shape);
    t.l2_normalise(&projected, &output);
    Ok(())
}
