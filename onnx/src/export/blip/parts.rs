//! What several graphs of a BLIP have in common: names and sizes of its texts' layers, and outputs of embeddings.

use super::scoring_text::ScoringText;
use crate::{
    checkpoint::BlipConfig,
    export::{
        bert::Bert,
        error::ExportError,
        graph::{DType, Dim, Value},
        tower::Tower,
    },
    model::IMAGES,
};

/// Returns names and sizes of the text decoder.
pub(super) fn bert(c: &BlipConfig) -> Bert<'static> {
    named_bert(c, "text_decoder.bert")
}

/// Returns names and sizes of the text encoder, all of whose layers attend to the image where there is one.
pub(in crate::export) fn scoring_text(c: &BlipConfig) -> ScoringText<'static> {
    ScoringText {
        bert: named_bert(c, "text_encoder"),
        layers: c.text.layers,
        text_layers: c.text.layers,
        fusion_layer: 0,
        image_tokens: c.vision.tokens(),
        embed_dim: c.embed_dim(),
        pad: c.text.special.pad,
        epsilon: c.text.epsilon,
    }
}

/// Adds an output of embeddings: the first of `tokens [N, T, W]`, projected and normalised.
pub(in crate::export) fn features(
    t: &mut Tower<'_>,
    tokens: &Value,
    (projection, width, embed_dim): (&str, usize, usize),
    output: &str,
) -> Result<(), ExportError> {
    let first = t.first_token(tokens);
    let projected = t.linear(projection, &first, [embed_dim, width], None)?;
    let projected = t.with_bias(projected);
    let projected = t.cast_to_f32(&projected);
    let output = t.g.declare_output(output, DType::F32, &[Dim::Named(IMAGES), Dim::Fixed(embed_dim)]);
    t.l2_normalise(&projected, &output);
    Ok(())
}

fn named_bert(c: &BlipConfig, prefix: &'static str) -> Bert<'static> {
    Bert {
        prefix,
        vocab_size: c.text.vocab_size,
        context_length: c.text.context_length,
        width: c.text.width,
        heads: c.text.heads,
        mlp_width: c.text.mlp_width,
        image_width: c.vision.width,
        token_types: 0,
    }
}
