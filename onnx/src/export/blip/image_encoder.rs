//! `image_encoder.onnx`: `pixels` u8 `[N, S, S, 3]` -> `image_tokens` f32 `[N, Q, W]`, with `Q` for the patches and the class token. Of a
//! captioner also `cross_key_<i>` and `cross_value_<i>` `[N, Q, H * D]` of every layer of the decoder, which are projected from them; of a
//! model that scores `image_features` f32 `[N, E]`.
//!
//! A ViT with LayerNorm before each part and once after all of them. The rows of `qkv` are those of query, key and value, one after
//! another.

use super::parts::{bert, features};
use crate::{
    checkpoint::{BlipConfig, BlipTask, BlipVisionConfig, TensorReader},
    export::{
        bert::{AttentionKind, Projection},
        blocks::{Block, Stream},
        error::ExportError,
        fold::{add_product, pad_head_columns, pad_head_rows},
        graph::{DType, Dim, Value},
        linear::Linear,
        patches::{self, PatchEmbedding},
        tower::Tower,
    },
    model::{IMAGE_TOKENS, IMAGES, cross_key, cross_value},
};

/// Names of query, key and value in the weights file.
const PARTS: [&str; 3] = ["q", "k", "v"];

/// Builds the graph.
pub(in crate::export) fn build(t: &mut Tower<'_>, c: &BlipConfig) -> Result<(), ExportError> {
    let v = &c.vision;
    t.epsilon = v.epsilon;
    let side = Dim::Fixed(v.image_size);
    let pixels = t.g.input("pixels", DType::U8, &[Dim::Named(IMAGES), side, side, Dim::Fixed(3)]);
    let mut x = Stream::Whole(embed(t, c, &pixels)?);
    for layer in 0..v.layers {
        let block = Block {
            prefix: format!("vision_model.encoder.layers.{layer}"),
            width: v.width,
            heads: v.heads,
            mlp_width: v.mlp_width,
            layer_scale: false,
        };
        x = self_attention(t, &block, &x, v.tokens())?;
        x = mlp(t, &block, &x)?;
    }
    let (tokens, _) = t.norm_stream("vision_model.post_layernorm", &x, v.width)?;
    let shape = [Dim::Named(IMAGES), Dim::Fixed(v.tokens()), Dim::Fixed(v.width)];
    let output = t.g.declare_output(IMAGE_TOKENS, DType::F32, &shape);
    let plain = t.cast_to_f32(&tokens);
    let shape = t.g.ints(&[-1, v.tokens() as i64, v.width as i64]);
    t.g.op_into("Reshape", &[&plain, &shape], &output, &[]);
    match c.task {
        BlipTask::Captions => cross_keys_and_values(t, c, &tokens),
        BlipTask::Retrieval { embed_dim } => {
            let tokens = t.as_batch(&tokens, v.tokens(), v.width);
            features(t, &tokens, ("vision_proj", v.width, embed_dim), "image_features")
        }
    }
}

/// Embeds pixels as tokens `[N * Q, W]`: patches, class token, positions.
fn embed(t: &mut Tower<'_>, c: &BlipConfig, pixels: &Value) -> Result<Value, ExportError> {
    const POSITIONS: &str = "vision_model.embeddings.position_embedding";
    const CLASS: &str = "vision_model.embeddings.class_embedding";
    let BlipVisionConfig { image_size, patch_size, width, .. } = c.vision;
    let tokens = c.vision.tokens();
    let embedding = PatchEmbedding {
        image_size,
        patch_size,
        width,
        weight: "vision_model.embeddings.patch_embedding.weight",
        bias: Some("vision_model.embeddings.patch_embedding.bias"),
        normalisation: c.normalisation,
    };
    let x = patches::embed(t, &embedding, pixels)?;
    let positions = t.derived_weight("visual.patch_positions", &[tokens - 1, width], |r| {
        let bias = embedding.folded_bias(r)?;
        let positions = r.get(POSITIONS, &[1, tokens, width])?;
        Ok(positions[width..].iter().enumerate().map(|(i, p)| p + bias[i % width]).collect())
    })?;
    let class = |r: &TensorReader| {
        let positions = r.get(POSITIONS, &[1, tokens, width])?;
        Ok(r.get(CLASS, &[1, 1, width])?.iter().zip(&positions).map(|(c, p)| c + p).collect())
    };
    patches::add_positions_and_class(t, &x, &positions, width, class)
}

/// Adds a self-attention; `stream` is `[N * tokens, W]`, and so is the result.
fn self_attention(
    t: &mut Tower<'_>,
    block: &Block,
    stream: &Stream,
    tokens: usize,
) -> Result<Stream, ExportError> {
    let (prefix, w, inner) = (&block.prefix, block.width, block.heads * block.padded());
    let (dim, padded) = (block.head_dim(), block.padded());
    let (normed, x) = t.norm_stream(&format!("{prefix}.layer_norm1"), stream, w)?;
    let (packed, packed_bias) =
        (format!("{prefix}.self_attn.qkv.weight"), format!("{prefix}.self_attn.qkv.bias"));
    let fused = t.is_fused();
    let mut project = |part: usize| -> Result<Value, ExportError> {
        let name = format!("{prefix}.self_attn.{}", PARTS[part]);
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        // In fused graphs biases of keys and values are folded away, see `Tower::attention_out`.
        let bias = (part == 0 || !fused).then_some(bias.as_str());
        let rows = t.project(
            &normed,
            &Linear { weight: &weight, bias, sizes: [inner, w] },
            |r| {
                let rows = &r.get(&packed, &[3 * w, w])?[part * w * w..(part + 1) * w * w];
                Ok(pad_head_rows(rows, dim, padded, w))
            },
            |r| Ok(pad_head_rows(&r.get(&packed_bias, &[3 * w])?[part * w..(part + 1) * w], dim, padded, 1)),
        )?;
        Ok(t.as_batch(&rows, tokens, inner))
    };
    let qkv = [project(0)?, project(1)?, project(2)?];
    let out = t.attention(block, [&qkv[0], &qkv[1], &qkv[2]], None);
    let out = t.as_rows(&out, inner);
    let name = format!("{prefix}.self_attn.projection");
    let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
    let out = t.product(
        &out,
        &Linear { weight: &weight, bias: Some(&bias), sizes: [w, inner] },
        |r| Ok(pad_head_columns(&r.get(&weight, &[w, w])?, dim, padded)),
        |r| {
            let plain = r.get(&bias, &[w])?;
            if !fused {
                return Ok(plain);
            }
            let values = &r.get(&packed_bias, &[3 * w])?[2 * w..];
            Ok(add_product(&plain, &r.get(&weight, &[w, w])?, values))
        },
    )?;
    Ok(t.add_to_stream(&x, out))
}

/// Adds the MLP of a layer.
fn mlp(t: &mut Tower<'_>, block: &Block, stream: &Stream) -> Result<Stream, ExportError> {
    let (prefix, w) = (&block.prefix, block.width);
    let (normed, x) = t.norm_stream(&format!("{prefix}.layer_norm2"), stream, w)?;
    let hidden = t.linear(&format!("{prefix}.mlp.fc1"), &normed, [block.mlp_width, w], None)?;
    let active = t.activate(hidden);
    let out = t.linear(&format!("{prefix}.mlp.fc2"), &active, [w, block.mlp_width], None)?;
    Ok(t.add_to_stream(&x, out))
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
