//! The graphs of an ALBEF: `image_encoder.onnx`, `text_encoder.onnx` and `fusion.onnx` with the inputs and outputs of a BLIP's that scores,
//! and, of a pre-training checkpoint, `mlm.onnx`.
//!
//! The layers are BLIP's, see `blip`; here are the authors' names and which layers attend to the image. `fusion.onnx` begins with ids and not
//! with the text encoder's tokens: a caption is matched with one image, so nothing is computed twice that could be shared but the text
//! layers' own part of the embedding, and one program runs both kinds of models.
//!
//! `mlm.onnx` predicts masked words: `ids` and `attention_mask` i64 `[N, T]`, `image_tokens` f32 `[N, Q, W]` -> `mlm_logits` f32 `[N, T, V]`.
//! It is a file of its own, so that scoring neither loads nor computes the head, whose logits are the largest product of all; only the
//! head's own weights add to `weights.bin`. Its mask is an input, because any id may stand at a masked place, that of padding too.

use super::{
    bert::Bert,
    blip::{ScoringText, Sequence, Vit, VitNames, features},
    error::ExportError,
    graph::{Attr, DType, Dim},
    mlm_head,
    tower::Tower,
};
use crate::{
    checkpoint::AlbefCheckpoint,
    model::{IMAGES, MLM_LOGITS},
};

/// The authors' names.
const NAMES: VitNames = VitNames {
    class: "visual_encoder.cls_token",
    positions: "visual_encoder.pos_embed",
    patch: "visual_encoder.patch_embed.proj",
    norm_pre: "visual_encoder.norm_pre",
    norm: "visual_encoder.norm",
    layers: "visual_encoder.blocks",
    attention_norm: "norm1",
    attention: "attn",
    projection: "proj",
    mlp_norm: "norm2",
};
/// Prefix of the head that predicts masked words.
const MLM_HEAD: &str = "text_encoder.cls.predictions";

/// Builds `image_encoder.onnx`.
pub(super) fn image_encoder(t: &mut Tower<'_>, checkpoint: &AlbefCheckpoint) -> Result<(), ExportError> {
    let c = &checkpoint.config;
    let vit = Vit {
        config: &c.vision,
        normalisation: c.normalisation,
        names: &NAMES,
        position_grid: checkpoint.position_grid,
    };
    let tokens = vit.tokens(t)?;
    let tokens = t.as_batch(&tokens, c.vision.tokens(), c.vision.width);
    features(t, &tokens, ("vision_proj", c.vision.width, c.embed_dim), "image_features")
}

/// Returns names and sizes of the BERT: its first layers are the text encoder, the others attend to the image.
pub(super) fn scoring_text(checkpoint: &AlbefCheckpoint) -> ScoringText<'static> {
    let c = &checkpoint.config;
    ScoringText {
        bert: Bert {
            prefix: checkpoint.text_prefix,
            vocab_size: c.text.vocab_size,
            context_length: c.text.context_length,
            width: c.text.width,
            heads: c.text.heads,
            mlp_width: c.text.mlp_width,
            image_width: c.vision.width,
            token_types: c.token_types,
        },
        layers: c.text.layers,
        text_layers: c.fusion_layer,
        fusion_layer: c.fusion_layer,
        image_tokens: c.vision.tokens(),
        embed_dim: c.embed_dim,
        pad: c.text.special.pad,
        epsilon: c.text.epsilon,
    }
}

/// Builds `mlm.onnx`.
pub(super) fn mlm(t: &mut Tower<'_>, checkpoint: &AlbefCheckpoint) -> Result<(), ExportError> {
    let text = scoring_text(checkpoint);
    t.epsilon = text.epsilon;
    let shape = [Dim::Named(IMAGES), Dim::Named("tokens")];
    let ids = t.g.input("ids", DType::I64, &shape);
    let mask = t.g.input("attention_mask", DType::I64, &shape);
    let image = text.image_input(t);
    let is_token = t.g.op("Cast", &[&mask], &[("to", Attr::Int(DType::Bool.code().into()))]);
    let sequence = Sequence::masked(t, &text.bert, &ids, &is_token);
    let x = text.fused_tokens(t, &ids, &sequence, &image)?;
    let vocab = text.bert.vocab_size;
    let logits = mlm_head::logits(t, &text.bert, MLM_HEAD, &x)?;
    let logits = t.cast_to_f32(&logits);
    let last = t.g.ints(&[vocab as i64]);
    let rows = t.g.op("Shape", &[&ids], &[]);
    let shape = t.g.op("Concat", &[&rows, &last], &[("axis", Attr::Int(0))]);
    let logits = t.g.op("Reshape", &[&logits, &shape], &[]);
    let shape = [Dim::Named(IMAGES), Dim::Named("tokens"), Dim::Fixed(vocab)];
    t.g.output(MLM_LOGITS, &logits, DType::F32, &shape);
    Ok(())
}
