//! `decoder.onnx`: one step of the text decoder with a KV cache. Inputs and outputs are those of a CoCa's decoder, see
//! `export::decoder`.

use super::parts::bert;
use crate::{
    checkpoint::BlipConfig,
    export::{
        bert::{AttentionKind, Projection},
        decoder::{ROWS, cached_attention, declare_cache, declare_cross, packed, prepare},
        error::ExportError,
        graph::{DType, Dim},
        mlm_head,
        tower::Tower,
    },
};

/// Prefix of the output's tensors.
const OUTPUT: &str = "text_decoder.cls.predictions";

/// Builds the graph.
pub(in crate::export) fn build(t: &mut Tower<'_>, c: &BlipConfig) -> Result<(), ExportError> {
    t.epsilon = c.text.epsilon;
    let bert = bert(c);
    let (block, inner) = (bert.block(), bert.inner());
    let ids = t.g.input("ids", DType::I64, &[Dim::Named(ROWS), Dim::Fixed(1)]);
    let positions = t.g.input("positions", DType::I64, &[Dim::Named(ROWS), Dim::Fixed(1)]);
    let cross = declare_cross(t, &block, c.vision.tokens(), c.text.layers);
    let caches: Vec<_> = (0..c.text.layers).map(|layer| declare_cache(t, &block, layer)).collect();
    let step = prepare(t, &block, &positions, &cross[0].0, &caches[0]);
    let mut x = bert.embed(t, &ids, &positions)?;
    for (layer, (cache, (key, value))) in caches.iter().zip(&cross).enumerate() {
        let qkv = bert.project_packed(t, layer, &x)?;
        let qkv = packed(t, &qkv, inner);
        let out = cached_attention(t, &block, &qkv, &step, cache);
        x = bert.attention_output(t, (layer, AttentionKind::Own), &out, &x)?;
        let query = bert.project(t, (layer, AttentionKind::Cross, Projection::Query), &x)?;
        // The rows of one image are its queries.
        let query = t.g.op("Reshape", &[&query, &step.queries], &[]);
        let out = t.attention(&block, [&query, key, value], None);
        let out = t.as_rows(&out, inner);
        x = bert.attention_output(t, (layer, AttentionKind::Cross), &out, &x)?;
        x = bert.mlp(t, layer, &x)?;
    }
    let logits = mlm_head::logits(t, &bert, OUTPUT, &x)?;
    let logits = t.cast_to_f32(&logits);
    t.g.output("logits", &logits, DType::F32, &[Dim::Named(ROWS), Dim::Fixed(c.text.vocab_size)]);
    Ok(())
}
