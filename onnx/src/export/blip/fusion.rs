//! `fusion.onnx` of a BLIP that scores: `ids` i64 `[R, T]`, padded, and `image_tokens` f32 `[N, Q, W]` -> `itm_logits` f32 `[R, 2]`,
//! whose second number is for a match.
//!
//! `R` is a multiple of `N`; rows `r * R / N ..` are texts of image r. Keys and values of an image are projected once for all of its
//! texts, whose tokens are its queries. The head reads the first token.

use super::{parts::retrieval_bert, sequence::Sequence};
use crate::{
    checkpoint::BlipConfig,
    export::{
        bert::{AttentionKind, Projection},
        decoder::ROWS,
        error::ExportError,
        graph::{Attr, DType, Dim, Value},
        image_encoder::first_token,
        tower::Tower,
    },
    model::{IMAGE_TOKENS, IMAGES, ITM_LOGITS},
};

/// Builds the graph.
pub(in crate::export) fn build(t: &mut Tower<'_>, c: &BlipConfig) -> Result<(), ExportError> {
    t.epsilon = c.text.epsilon;
    let bert = retrieval_bert(c);
    let (block, inner, count) = (bert.block(), bert.inner(), c.vision.tokens());
    let ids = t.g.input("ids", DType::I64, &[Dim::Named(ROWS), Dim::Named("tokens")]);
    let shape = [Dim::Named(IMAGES), Dim::Fixed(count), Dim::Fixed(c.vision.width)];
    let image = t.g.input(IMAGE_TOKENS, DType::F32, &shape);
    let images = t.g.op("Shape", &[&image], &[("start", Attr::Int(0)), ("end", Attr::Int(1))]);
    let rest = t.g.ints(&[-1, inner as i64]);
    let queries = t.g.op("Concat", &[&images, &rest], &[("axis", Attr::Int(0))]);
    let image = t.as_rows(&image, c.vision.width);
    let image = cast(t, &image);
    let sequence = Sequence::of(t, &bert, &ids, c.text.special.pad);
    let mut x = bert.embed_sequence(t, &ids)?;
    for layer in 0..c.text.layers {
        x = sequence.self_attention(t, &bert, layer, &x)?;
        let query = bert.project(t, (layer, AttentionKind::Cross, Projection::Query), &x)?;
        let query = t.g.op("Reshape", &[&query, &queries], &[]);
        let mut part = |part| -> Result<Value, ExportError> {
            let rows = bert.project(t, (layer, AttentionKind::Cross, part), &image)?;
            Ok(t.as_batch(&rows, count, inner))
        };
        let (key, value) = (part(Projection::Key)?, part(Projection::Value)?);
        let out = t.attention(&block, [&query, &key, &value], None);
        let out = t.as_rows(&out, inner);
        x = bert.attention_output(t, (layer, AttentionKind::Cross), &out, &x)?;
        x = bert.mlp(t, layer, &x)?;
    }
    let tokens = t.g.op("Reshape", &[&x, &sequence.tokens], &[]);
    let first = first_token(t, &tokens);
    let head = t.linear("itm_head", &first, [2, c.text.width], None)?;
    let logits = t.with_bias(head);
    let logits = t.cast_to_f32(&logits);
    t.g.output(ITM_LOGITS, &logits, DType::F32, &[Dim::Named(ROWS), Dim::Fixed(2)]);
    Ok(())
}

/// Casts to the type of activations, if necessary.
fn cast(t: &mut Tower<'_>, x: &Value) -> Value {
    match t.dtype {
        DType::F32 => x.clone(),
        other => t.g.op("Cast", &[x], &[("to", Attr::Int(other.code().into()))]),
    }
}
