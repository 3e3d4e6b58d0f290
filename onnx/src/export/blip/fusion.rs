//! `fusion.onnx` of a BLIP that scores, and of an ALBEF: `ids` i64 `[R, T]`, padded, and `image_tokens` f32 `[N, Q, W]` -> `itm_logits`
//! f32 `[R, 2]`, whose second number is for a match.
//!
//! `R` is a multiple of `N`; rows `r * R / N ..` are texts of image r. The head reads the first token.

use super::{scoring_text::ScoringText, sequence::Sequence};
use crate::{
    export::{
        decoder::ROWS,
        error::ExportError,
        graph::{DType, Dim},
        tower::Tower,
    },
    model::ITM_LOGITS,
};

/// Builds the graph.
pub(in crate::export) fn build(t: &mut Tower<'_>, text: &ScoringText<'_>) -> Result<(), ExportError> {
    t.epsilon = text.epsilon;
    let ids = t.g.input("ids", DType::I64, &[Dim::Named(ROWS), Dim::Named("tokens")]);
    let image = text.image_input(t);
    let sequence = Sequence::of(t, &text.bert, &ids, text.pad);
    let x = text.fused_tokens(t, &ids, &sequence, &image)?;
    let tokens = t.g.op("Reshape", &[&x, &sequence.tokens], &[]);
    let first = t.first_token(&tokens);
    let head = t.linear("itm_head", &first, [2, text.bert.width], None)?;
    let logits = t.with_bias(head);
    let logits = t.cast_to_f32(&logits);
    t.g.output(ITM_LOGITS, &logits, DType::F32, &[Dim::Named(ROWS), Dim::Fixed(2)]);
    Ok(())
}
