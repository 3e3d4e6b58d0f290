//! `text_encoder.onnx` of a BLIP that scores, and of an ALBEF: `ids` i64 `[N, T]`, `[CLS]` first and padded -> `text_features` f32 `[N, E]`
//! and, for comparisons, `text_tokens` f32 `[N, T, W]`.
//!
//! Every token attends to all tokens that are not padding, so the padded length changes nothing.

use super::{parts::features, scoring_text::ScoringText, sequence::Sequence};
use crate::{
    export::{
        error::ExportError,
        graph::{DType, Dim},
        tower::Tower,
    },
    model::{IMAGES, TEXT_TOKENS},
};

/// Builds the graph.
pub(in crate::export) fn build(t: &mut Tower<'_>, text: &ScoringText<'_>) -> Result<(), ExportError> {
    t.epsilon = text.epsilon;
    let ids = t.g.input("ids", DType::I64, &[Dim::Named(IMAGES), Dim::Named("tokens")]);
    let sequence = Sequence::of(t, &text.bert, &ids, text.pad);
    let x = text.text_tokens(t, &ids, &sequence)?;
    let tokens = t.g.op("Reshape", &[&x, &sequence.tokens], &[]);
    let width = text.bert.width;
    let shape = [Dim::Named(IMAGES), Dim::Named("tokens"), Dim::Fixed(width)];
    let plain = t.cast_to_f32(&tokens);
    t.g.output(TEXT_TOKENS, &plain, DType::F32, &shape);
    features(t, &tokens, ("text_proj", width, text.embed_dim), "text_features")
}
