//! The BERT of a model that scores (BLIP, ALBEF), in which the layers of the text alone and those that attend to an image are the same, or
//! follow each other.

use super::sequence::Sequence;
use crate::{
    export::{
        bert::{AttentionKind, Bert, Projection},
        error::ExportError,
        graph::{Attr, DType, Dim, Value},
        tower::Tower,
    },
    model::{IMAGE_TOKENS, IMAGES},
};

/// Names and sizes.
pub(in crate::export) struct ScoringText<'a> {
    /// Names and sizes of the layers.
    pub(in crate::export) bert: Bert<'a>,
    /// All layers.
    pub(in crate::export) layers: usize,
    /// The first of them that are the text encoder.
    pub(in crate::export) text_layers: usize,
    /// The first layer that attends to an image.
    pub(in crate::export) fusion_layer: usize,
    /// Tokens of an image, `Q`.
    pub(in crate::export) image_tokens: usize,
    /// Width of the shared embedding, `E`.
    pub(in crate::export) embed_dim: usize,
    /// Id of padding.
    pub(in crate::export) pad: i64,
    /// Epsilon of LayerNorm.
    pub(in crate::export) epsilon: f32,
}

/// Image tokens as an input of a graph.
pub(in crate::export) struct ImageInput {
    /// `[N * Q, W]`.
    rows: Value,
    /// `[N, -1, H * D]` as a shape: the texts of one image are its queries.
    queries: Value,
}

impl ScoringText<'_> {
    /// Adds the input `image_tokens` f32 `[N, Q, W]`.
    pub(in crate::export) fn image_input(&self, t: &mut Tower<'_>) -> ImageInput {
        let (count, width) = (self.image_tokens, self.bert.image_width);
        let shape = [Dim::Named(IMAGES), Dim::Fixed(count), Dim::Fixed(width)];
        let image = t.g.input(IMAGE_TOKENS, DType::F32, &shape);
        let images = t.g.op("Shape", &[&image], &[("start", Attr::Int(0)), ("end", Attr::Int(1))]);
        let rest = t.g.ints(&[-1, self.bert.inner() as i64]);
        let queries = t.g.op("Concat", &[&images, &rest], &[("axis", Attr::Int(0))]);
        let rows = t.as_rows(&image, width);
        let rows = match t.dtype {
            DType::F32 => rows,
            other => t.g.op("Cast", &[&rows], &[("to", Attr::Int(other.code().into()))]),
        };
        ImageInput { rows, queries }
    }

    /// Adds the text encoder; `ids` are `[R, T]`, the result is `[R * T, W]`.
    pub(in crate::export) fn text_tokens(
        &self,
        t: &mut Tower<'_>,
        ids: &Value,
        sequence: &Sequence,
    ) -> Result<Value, ExportError> {
        let mut x = self.bert.embed_sequence(t, ids)?;
        for layer in 0..self.text_layers {
            x = sequence.self_attention(t, &self.bert, layer, &x)?;
            x = self.bert.mlp(t, layer, &x)?;
        }
        Ok(x)
    }

    /// Adds all layers, of which those from [`Self::fusion_layer`] on attend to the image; `ids` are `[R, T]`, the result is `[R * T, W]`.
    ///
    /// `R` is a multiple of `N`; rows `r * R / N ..` are texts of image r. Keys and values of an image are projected once for all of its
    /// texts, whose tokens are its queries.
    pub(in crate::export) fn fused_tokens(
        &self,
        t: &mut Tower<'_>,
        ids: &Value,
        sequence: &Sequence,
        image: &ImageInput,
    ) -> Result<Value, ExportError> {
        let mut x = self.bert.embed_sequence(t, ids)?;
        for layer in 0..self.layers {
            x = sequence.self_attention(t, &self.bert, layer, &x)?;
            if layer >= self.fusion_layer {
                x = self.cross_attention(t, layer, &x, image)?;
            }
            x = self.bert.mlp(t, layer, &x)?;
        }
        Ok(x)
    }

    /// Adds a layer's cross-attention with its output; `x` is `[R * T, W]`, and so is the result.
    fn cross_attention(
        &self,
        t: &mut Tower<'_>,
        layer: usize,
        x: &Value,
        image: &ImageInput,
    ) -> Result<Value, ExportError> {
        let (bert, inner) = (&self.bert, self.bert.inner());
        let query = bert.project(t, (layer, AttentionKind::Cross, Projection::Query), x)?;
        let query = t.g.op("Reshape", &[&query, &image.queries], &[]);
        let mut part = |part| -> Result<Value, ExportError> {
            let rows = bert.project(t, (layer, AttentionKind::Cross, part), &image.rows)?;
            Ok(t.as_batch(&rows, self.image_tokens, inner))
        };
        let (key, value) = (part(Projection::Key)?, part(Projection::Value)?);
        let out = t.attention(&bert.block(), [&query, &key, &value], None);
        let out = t.as_rows(&out, inner);
        bert.attention_output(t, (layer, AttentionKind::Cross), &out, x)
    }
}
