//! The head of BERT that predicts words (`cls.predictions`): a layer with its activation and LayerNorm, then the product with the output
//! embeddings.
//!
//! The output embeddings are the word embeddings, unless the checkpoint stores others: fine-tunes of transformers 4 may.

use super::{bert::Bert, error::ExportError, graph::Value, linear::Linear, tower::Tower};
use crate::checkpoint::TensorReader;

/// Adds the head below `prefix` (without the last dot) to tokens `x [rows, W]` of `bert`; the logits are `[rows, V]`.
pub(super) fn logits(
    t: &mut Tower<'_>,
    bert: &Bert<'_>,
    prefix: &str,
    x: &Value,
) -> Result<Value, ExportError> {
    let (w, vocab) = (bert.width, bert.vocab_size);
    let hidden = t.linear(&format!("{prefix}.transform.dense"), x, [w, w], None)?;
    let active = t.activate(hidden);
    let normed = t.layer_norm(&format!("{prefix}.transform.LayerNorm"), &active, w)?;
    let weight = output_embeddings(t.tensors, bert, prefix)?;
    let bias = output_bias(t.tensors, prefix);
    // The weights file has a tensor per name and layout: in fused graphs the embeddings are transposed here.
    let stored = if t.is_fused() { format!("{weight}.output") } else { weight.clone() };
    t.project(
        &normed,
        &Linear { weight: &stored, bias: Some(&bias), sizes: [vocab, w] },
        |r| Ok(r.get(&weight, &[vocab, w])?),
        |r| Ok(r.get(&bias, &[vocab])?),
    )
}

/// Returns the name of the output embeddings: `decoder.weight` where the checkpoint has one that differs from the word embeddings.
fn output_embeddings(r: &TensorReader, bert: &Bert<'_>, prefix: &str) -> Result<String, ExportError> {
    let own = format!("{prefix}.decoder.weight");
    let words = bert.words();
    if !r.contains(&own) {
        return Ok(words);
    }
    let shape = [bert.vocab_size, bert.width];
    Ok(if r.get(&own, &shape)? == r.get(&words, &shape)? { words } else { own })
}

/// Returns the name of the output's bias. It is stored as `decoder.bias` too, or only as `bias`.
fn output_bias(r: &TensorReader, prefix: &str) -> String {
    let (tied, own) = (format!("{prefix}.bias"), format!("{prefix}.decoder.bias"));
    if !r.contains(&own) {
        return tied;
    }
    // transformers ties the two, and uses the decoder's where they differ.
    r.ignore(&[&tied]);
    own
}
