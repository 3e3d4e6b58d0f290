//! `text_encoder.onnx` of a BLIP that scores: `ids` i64 `[N, T]`, `[CLS]` first and padded -> `text_features` f32 `[N, E]` and, for
//! comparisons, `text_tokens` f32 `[N, T, W]`.
//!
//! Every token attends to all tokens that are not padding, so the padded length changes nothing.

use super::{
    parts::{features, retrieval_bert},
    sequence::Sequence,
};
use crate::{
    checkpoint::BlipConfig,
    export::{
        error::ExportError,
        graph::{DType, Dim},
        tower::Tower,
    },
    model::{IMAGES, TEXT_TOKENS},
};

/// Builds the graph.
pub(in crate::export) fn build(t: &mut Tower<'_>, c: &BlipConfig) -> Result<(), ExportError> {
    t.epsilon = c.text.epsilon;
    let bert = retrieval_bert(c);
    let ids = t.g.input("ids", DType::I64, &[Dim::Named(IMAGES), Dim::Named("tokens")]);
    let sequence = Sequence::of(t, &bert, &ids, c.text.special.pad);
    let mut x = bert.embed_sequence(t, &ids)?;
    for layer in 0..c.text.layers {
        x = sequence.self_attention(t, &bert, layer, &x)?;
        x = bert.mlp(t, layer, &x)?;
    }
    let tokens = t.g.op("Reshape", &[&x, &sequence.tokens], &[]);
    let shape = [Dim::Named(IMAGES), Dim::Named("tokens"), Dim::Fixed(c.text.width)];
    let plain = t.cast_to_f32(&tokens);
    t.g.output(TEXT_TOKENS, &plain, DType::F32, &shape);
    features(t, &tokens, ("text_proj", c.text.width, c.embed_dim()), "text_features")
}
