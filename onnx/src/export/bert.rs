//! BERT's layers: LayerNorm after each addition, an optional cross-attention to an image in every layer.
//!
//! Tensors have the names of transformers' BERT below a prefix. Head sizes are padded as in `blocks`.

use super::{
    blocks::Block,
    error::ExportError,
    fold::{pad_head_columns, pad_head_rows},
    graph::{Attr, Value},
    linear::Linear,
    tower::Tower,
};
use crate::checkpoint::TensorReader;

/// Names and sizes of a BERT.
pub(super) struct Bert<'a> {
    /// Prefix of all its tensors, without the last dot.
    pub(super) prefix: &'a str,
    /// Vocabulary.
    pub(super) vocab_size: usize,
    /// Number of position embeddings.
    pub(super) context_length: usize,
    /// Width of the tokens, `W`.
    pub(super) width: usize,
    /// Heads.
    pub(super) heads: usize,
    /// Width of the MLP.
    pub(super) mlp_width: usize,
    /// Width of the image tokens that cross-attentions read.
    pub(super) image_width: usize,
    /// Number of token type embeddings, of which texts have the first; 0 without any.
    pub(super) token_types: usize,
}

/// Which attention of a layer.
#[derive(Clone, Copy)]
pub(super) enum AttentionKind {
    /// To the text itself.
    Own,
    /// To the image.
    Cross,
}

/// Parts of an attention that are projected from its inputs.
#[derive(Clone, Copy)]
pub(super) enum Projection {
    /// Queries, from the text.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
}

impl Projection {
    const ALL: [Self; 3] = [Self::Query, Self::Key, Self::Value];

    fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
        }
    }
}

impl Bert<'_> {
    /// Returns heads and sizes of an attention.
    pub(super) fn block(&self) -> Block {
        Block {
            prefix: self.prefix.into(),
            width: self.width,
            heads: self.heads,
            mlp_width: self.mlp_width,
            layer_scale: false,
        }
    }

    /// Returns the width of queries, keys and values in the graph.
    pub(super) fn inner(&self) -> usize {
        let block = self.block();
        block.heads * block.padded()
    }

    /// Returns the name of the word embeddings, `[V, W]`.
    pub(super) fn words(&self) -> String {
        format!("{}.embeddings.word_embeddings.weight", self.prefix)
    }

    /// Returns the prefix of layer `layer`.
    fn layer(&self, layer: usize) -> String {
        format!("{}.encoder.layer.{layer}", self.prefix)
    }

    /// Returns the prefix of an attention.
    fn attention(&self, layer: usize, kind: AttentionKind) -> String {
        let kind = match kind {
            AttentionKind::Own => "attention",
            AttentionKind::Cross => "crossattention",
        };
        format!("{}.{kind}", self.layer(layer))
    }

    /// Returns the name of a projection of an attention, without `.weight` and `.bias`.
    fn projection(&self, layer: usize, kind: AttentionKind, part: Projection) -> String {
        format!("{}.self.{}", self.attention(layer, kind), part.name())
    }

    /// Adds the normed sum of word and position embeddings, `[R, W]`; `ids` and `positions` are `[R, 1]`.
    pub(super) fn embed(
        &self,
        t: &mut Tower<'_>,
        ids: &Value,
        positions: &Value,
    ) -> Result<Value, ExportError> {
        let words = t.checkpoint_weight(&self.words(), &[self.vocab_size, self.width])?;
        let places = self.places(t)?;
        let words = t.g.op("Gather", &[&words, ids], &[]);
        let places = t.g.op("Gather", &[&places, positions], &[]);
        let sum = t.g.op("Add", &[&words, &places], &[]);
        self.norm_embeddings(t, &sum)
    }

    /// Adds the normed sum of word and position embeddings of whole texts `ids [R, T]`; `[R * T, W]`.
    pub(super) fn embed_sequence(&self, t: &mut Tower<'_>, ids: &Value) -> Result<Value, ExportError> {
        let words = t.checkpoint_weight(&self.words(), &[self.vocab_size, self.width])?;
        let places = self.places(t)?;
        let words = t.g.op("Gather", &[&words, ids], &[]);
        let length = t.g.op("Shape", &[ids], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
        let (zero, axis) = (t.g.ints(&[0]), t.g.ints(&[0]));
        let places = t.g.op("Slice", &[&places, &zero, &length, &axis], &[]);
        let sum = t.g.op("Add", &[&words, &places], &[]);
        self.norm_embeddings(t, &sum)
    }

    /// Adds the position embeddings `[context, W]`, with the first token type's embedding added to each, if there are any.
    fn places(&self, t: &mut Tower<'_>) -> Result<Value, ExportError> {
        let (prefix, w) = (self.prefix, self.width);
        let (places, shape) =
            (format!("{prefix}.embeddings.position_embeddings.weight"), [self.context_length, w]);
        if self.token_types == 0 {
            return t.checkpoint_weight(&places, &shape);
        }
        let types = format!("{prefix}.embeddings.token_type_embeddings.weight");
        t.derived_weight(&format!("{prefix}.embeddings.typed_positions"), &shape, |r| {
            let first = r.get(&types, &[self.token_types, w])?;
            let places = r.get(&places, &shape)?;
            Ok(places.iter().enumerate().map(|(i, place)| place + first[i % w]).collect())
        })
    }

    fn norm_embeddings(&self, t: &mut Tower<'_>, sum: &Value) -> Result<Value, ExportError> {
        let rows = t.as_rows(sum, self.width);
        t.layer_norm(&format!("{}.embeddings.LayerNorm", self.prefix), &rows, self.width)
    }

    /// Projects to query, key and value of a self-attention in one matrix, `[rows, 3 * H * D]`.
    pub(super) fn project_packed(
        &self,
        t: &mut Tower<'_>,
        layer: usize,
        x: &Value,
    ) -> Result<Value, ExportError> {
        let packed = format!("{}.self.packed", self.attention(layer, AttentionKind::Own));
        let (weight, bias) = (format!("{packed}.weight"), format!("{packed}.bias"));
        let names = Projection::ALL.map(|part| self.projection(layer, AttentionKind::Own, part));
        let join = |r: &TensorReader, what: &str, columns: usize| -> Result<Vec<f32>, ExportError> {
            let mut all = Vec::new();
            for name in &names {
                all.extend(self.head_rows(r, &format!("{name}.{what}"), columns)?);
            }
            Ok(all)
        };
        let linear = Linear { weight: &weight, bias: Some(&bias), sizes: [3 * self.inner(), self.width] };
        t.project(x, &linear, |r| join(r, "weight", self.width), |r| join(r, "bias", 0))
    }

    /// Projects to one part of an attention, `[rows, H * D]`; `x` is as wide as the text, or as the image for keys and values of a
    /// cross-attention.
    pub(super) fn project(
        &self,
        t: &mut Tower<'_>,
        (layer, kind, part): (usize, AttentionKind, Projection),
        x: &Value,
    ) -> Result<Value, ExportError> {
        let input = match (kind, part) {
            (AttentionKind::Cross, Projection::Key | Projection::Value) => self.image_width,
            _ => self.width,
        };
        let name = self.projection(layer, kind, part);
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let linear = Linear { weight: &weight, bias: Some(&bias), sizes: [self.inner(), input] };
        t.project(x, &linear, |r| self.head_rows(r, &weight, input), |r| self.head_rows(r, &bias, 0))
    }

    /// Reads a projection's weight `[W, columns]`, or its bias `[W]` (`columns` 0), with padded heads.
    fn head_rows(&self, r: &TensorReader, name: &str, columns: usize) -> Result<Vec<f32>, ExportError> {
        let block = self.block();
        let shape: &[usize] = if columns == 0 { &[self.width] } else { &[self.width, columns] };
        Ok(pad_head_rows(&r.get(name, shape)?, block.head_dim(), block.padded(), columns.max(1)))
    }

    /// Adds what follows an attention with output `x [rows, H * D]`: its output projection, the sum with the attention's input
    /// `residual [rows, W]`, and LayerNorm.
    pub(super) fn attention_output(
        &self,
        t: &mut Tower<'_>,
        (layer, kind): (usize, AttentionKind),
        x: &Value,
        residual: &Value,
    ) -> Result<Value, ExportError> {
        let output = format!("{}.output", self.attention(layer, kind));
        let (weight, bias) = (format!("{output}.dense.weight"), format!("{output}.dense.bias"));
        let (w, block) = (self.width, self.block());
        let linear = Linear { weight: &weight, bias: Some(&bias), sizes: [w, self.inner()] };
        let out = t.product(
            x,
            &linear,
            |r| Ok(pad_head_columns(&r.get(&weight, &[w, w])?, block.head_dim(), block.padded())),
            |r| Ok(r.get(&bias, &[w])?),
        )?;
        let sum = t.add_to_stream(residual, out);
        Ok(t.norm_stream(&format!("{output}.LayerNorm"), &sum, w)?.0)
    }

    /// Adds the MLP of a layer, the sum with its input, and LayerNorm; `[rows, W]`.
    pub(super) fn mlp(&self, t: &mut Tower<'_>, layer: usize, x: &Value) -> Result<Value, ExportError> {
        let (prefix, w) = (self.layer(layer), self.width);
        let hidden = t.linear(&format!("{prefix}.intermediate.dense"), x, [self.mlp_width, w], None)?;
        let active = t.activate(hidden);
        let out = t.linear(&format!("{prefix}.output.dense"), &active, [w, self.mlp_width], None)?;
        let sum = t.add_to_stream(x, out);
        Ok(t.norm_stream(&format!("{prefix}.output.LayerNorm"), &sum, w)?.0)
    }
}
