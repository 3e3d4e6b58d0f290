//! `image_encoder.onnx`: `pixels` u8 `[N, S, S, 3]` -> `image_tokens` f32 `[N, Q, W]`, with `Q` for the patches and the class token. Of a
//! captioner also `cross_key_<i>` and `cross_value_<i>` `[N, Q, H * D]` of every layer of the decoder, which are projected from them; of a
//! model that scores `image_features` f32 `[N, E]`.

use super::{
    parts::{bert, features},
    vit::{Vit, VitNames},
};
use crate::{
    checkpoint::{BlipConfig, BlipTask},
    export::{
        bert::{AttentionKind, Projection},
        error::ExportError,
        graph::{Dim, Value},
        tower::Tower,
    },
    model::{IMAGES, cross_key, cross_value},
};

/// transformers' names.
const NAMES: VitNames = VitNames {
    class: "vision_model.embeddings.class_embedding",
    positions: "vision_model.embeddings.position_embedding",
    patch: "vision_model.embeddings.patch_embedding",
    norm_pre: "vision_model.pre_layernorm",
    norm: "vision_model.post_layernorm",
    layers: "vision_model.encoder.layers",
    attention_norm: "layer_norm1",
    attention: "self_attn",
    projection: "projection",
    mlp_norm: "layer_norm2",
};

/// Builds the graph.
pub(in crate::export) fn build(t: &mut Tower<'_>, c: &BlipConfig) -> Result<(), ExportError> {
    let vit = Vit {
        config: &c.vision,
        normalisation: c.normalisation,
        names: &NAMES,
        position_grid: c.vision.image_size / c.vision.patch_size,
    };
    let tokens = vit.tokens(t)?;
    match c.task {
        BlipTask::Captions => cross_keys_and_values(t, c, &tokens),
        BlipTask::Retrieval { embed_dim } => {
            let tokens = t.as_batch(&tokens, c.vision.tokens(), c.vision.width);
            features(t, &tokens, ("vision_proj", c.vision.width, embed_dim), "image_features")
        }
    }
}

/// Adds keys and values of every cross-attention, from `tokens [N * Q, W]`.
fn cross_keys_and_values(t: &mut Tower<'_>, c: &BlipConfig, tokens: &Value) -> Result<(), ExportError> {
    let bert = bert(c);
    let (count, inner) = (c.vision.tokens(), bert.inner());
    for layer in 0..c.text.layers {
        for (part, name) in [(Projection::Key, cross_key(layer)), (Projection::Value, cross_value(layer))] {
            let rows = bert.project(t, (layer, AttentionKind::Cross, part), tokens)?;
            let shape = [Dim::Named(IMAGES), Dim::Fixed(count), Dim::Fixed(inner)];
            let output = t.g.declare_output(&name, t.dtype, &shape);
            let shape = t.g.ints(&[-1, count as i64, inner as i64]);
            t.g.op_into("Reshape", &[&rows, &shape], &output, &[]);
        }
    }
    Ok(())
}
