//! Self-attention of whole texts in both directions, with padding masked.

use crate::export::{
    bert::{AttentionKind, Bert, Projection},
    error::ExportError,
    graph::{Attr, Value},
    tower::Tower,
};

/// Values that all layers read. `R` texts of `T` ids.
pub(in crate::export) struct Sequence {
    /// `[R, T, W]` as a shape.
    pub(in crate::export) tokens: Value,
    /// `[R, T, H * D]` as a shape.
    heads: Value,
    /// Which keys a query may attend to, bool `[R, 1, T, T]`.
    mask: Value,
}

impl Sequence {
    /// Computes them from `ids [R, T]`, where `pad` is no token.
    pub(in crate::export) fn of(t: &mut Tower<'_>, bert: &Bert<'_>, ids: &Value, pad: i64) -> Self {
        let pad = t.g.int(pad);
        let is_pad = t.g.op("Equal", &[ids, &pad], &[]);
        let is_token = t.g.op("Not", &[&is_pad], &[]);
        Self::masked(t, bert, ids, &is_token)
    }

    /// Computes them from `ids [R, T]` and which of them are tokens, bool `[R, T]`.
    pub(in crate::export) fn masked(
        t: &mut Tower<'_>,
        bert: &Bert<'_>,
        ids: &Value,
        is_token: &Value,
    ) -> Self {
        let shape = t.g.op("Shape", &[ids], &[]);
        let mut with = |width: usize| {
            let last = t.g.ints(&[width as i64]);
            t.g.op("Concat", &[&shape, &last], &[("axis", Attr::Int(0))])
        };
        let (tokens, heads) = (with(bert.width), with(bert.inner()));
        let axes = t.g.ints(&[1, 2]);
        let keys = t.g.op("Unsqueeze", &[is_token, &axes], &[]);
        let rows = t.g.op("Shape", &[ids], &[("start", Attr::Int(0)), ("end", Attr::Int(1))]);
        let length = t.g.op("Shape", &[ids], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
        let one = t.g.ints(&[1]);
        let shape = t.g.op("Concat", &[&rows, &one, &length, &length], &[("axis", Attr::Int(0))]);
        let mask = t.g.op("Expand", &[&keys, &shape], &[]);
        Self { tokens, heads, mask }
    }

    /// Adds a layer's self-attention with its output; `x` is `[R * T, W]`, and so is the result.
    pub(in crate::export) fn self_attention(
        &self,
        t: &mut Tower<'_>,
        bert: &Bert<'_>,
        layer: usize,
        x: &Value,
    ) -> Result<Value, ExportError> {
        let mut part = |part| -> Result<Value, ExportError> {
            let rows = bert.project(t, (layer, AttentionKind::Own, part), x)?;
            Ok(t.g.op("Reshape", &[&rows, &self.heads], &[]))
        };
        let qkv = [part(Projection::Query)?, part(Projection::Key)?, part(Projection::Value)?];
        let out = t.attention(&bert.block(), [&qkv[0], &qkv[1], &qkv[2]], Some(&self.mask));
        let out = t.as_rows(&out, bert.inner());
        bert.attention_output(t, (layer, AttentionKind::Own), &out, x)
    }
}
