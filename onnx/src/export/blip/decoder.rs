//! `decoder.onnx`: one step of the text decoder with a KV cache. Inputs and outputs are those of a CoCa's decoder, see
//! `export::decoder`.
//!
//! The output embeddings are the word embeddings, unless the checkpoint stores others: fine-tunes of transformers 4 may.

use super::parts::bert;
use crate::{
    checkpoint::{BlipConfig, TensorReader},
    export::{
        bert::{AttentionKind, Projection},
        decoder::{ROWS, cached_attention, declare_cache, declare_cross, packed, prepare},
        error::ExportError,
        graph::{DType, Dim, Value},
        linear::Linear,
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
    let logits = logits(t, c, &x)?;
    let logits = t.cast_to_f32(&logits);
    t.g.output("logits", &logits, DType::F32, &[Dim::Named(ROWS), Dim::Fixed(c.text.vocab_size)]);
    Ok(())
}

/// Adds the head: a layer with its activation and LayerNorm, then the product with the output embeddings; `[R, V]`.
fn logits(t: &mut Tower<'_>, c: &BlipConfig, x: &Value) -> Result<Value, ExportError> {
    let (w, vocab) = (c.text.width, c.text.vocab_size);
    let hidden = t.linear(&format!("{OUTPUT}.transform.dense"), x, [w, w], None)?;
    let active = t.activate(hidden);
    let normed = t.layer_norm(&format!("{OUTPUT}.transform.LayerNorm"), &active, w)?;
    let weight = output_embeddings(t.tensors, c)?;
    let bias = output_bias(t.tensors);
    // The weights file has a tensor per name and layout: in fused graphs the embeddings are transposed here.
    let stored = if t.is_fused() { format!("{weight}.output") } else { weight.clone() };
    t.project(
        &normed,
        &Linear { weight: &stored, bias: Some(bias), sizes: [vocab, w] },
        |r| Ok(r.get(&weight, &[vocab, w])?),
        |r| Ok(r.get(bias, &[vocab])?),
    )
}

/// Returns the name of the output embeddings: `decoder.weight` where the checkpoint has one that differs from the word embeddings.
fn output_embeddings(r: &TensorReader, c: &BlipConfig) -> Result<String, ExportError> {
    let own = format!("{OUTPUT}.decoder.weight");
    let words = bert(c).words();
    if !r.contains(&own) {
        return Ok(words);
    }
    let shape = [c.text.vocab_size, c.text.width];
    Ok(if r.get(&own, &shape)? == r.get(&words, &shape)? { words } else { own })
}

/// Returns the name of the output's bias. It is stored as `decoder.bias` too, or only as `bias`.
fn output_bias(r: &TensorReader) -> &'static str {
    const TIED: &str = "text_decoder.cls.predictions.bias";
    const OWN: &str = "text_decoder.cls.predictions.decoder.bias";
    if !r.contains(OWN) {
        return TIED;
    }
    // transformers ties the two, and uses the decoder's where they differ.
    r.ignore(&[TIED]);
    OWN
}
