//! Names of tensors in the authors' checkpoints: what serves training alone, and what tells the variants apart.

use super::config::AlbefConfig;
use crate::checkpoint::tensors::TensorReader;

/// What training with several processes may put before every name.
const PARALLEL: &str = "module.";
/// Prefixes of the momentum copies.
const MOMENTUM: [&str; 4] = ["visual_encoder_m.", "text_encoder_m.", "vision_proj_m.", "text_proj_m."];
/// Queues of features with their position, and the temperature.
const TRAINING: [&str; 5] = ["image_queue", "text_queue", "idx_queue", "queue_ptr", "temp"];
/// Prefix of the text encoder in a pre-training checkpoint, which is a `BertForMaskedLM`.
const PRETRAINING_TEXT: &str = "text_encoder.bert";
/// Prefix of the text encoder in a retrieval checkpoint, which is a `BertModel`.
pub(super) const RETRIEVAL_TEXT: &str = "text_encoder";
/// Prefix of the head that predicts masked words.
pub(super) const MLM_HEAD: &str = "text_encoder.cls.";
/// A tensor that every text encoder has, behind its prefix.
const WORDS: &str = "embeddings.word_embeddings.weight";
/// The image encoder's position embeddings, `[1, G * G + 1, W]`.
const POSITIONS: &str = "visual_encoder.pos_embed";
/// The first layer of the first MLP of the image encoder, `[M, W]`.
const FIRST_MLP: &str = "visual_encoder.blocks.0.mlp.fc1.weight";

/// Returns a name without what training with several processes puts before it.
pub(super) fn without_parallel(name: &str) -> &str {
    name.strip_prefix(PARALLEL).unwrap_or(name)
}

/// Returns whether a tensor serves training alone.
pub(super) fn is_training_only(name: &str) -> bool {
    TRAINING.contains(&name) || MOMENTUM.iter().any(|prefix| name.starts_with(prefix))
}

/// Checks that queues, where they are stored, are `[E, queue_size]`.
///
/// # Errors
/// A message with the tensor and both shapes.
pub(super) fn check_queues(tensors: &TensorReader, config: &AlbefConfig) -> Result<(), String> {
    for name in ["image_queue", "text_queue"] {
        let Some((shape, length)) = tensors.shape(name).zip(config.queue_size) else { continue };
        let wanted = [config.embed_dim, length];
        if shape != wanted {
            return Err(format!(
                "tensor `{name}` has shape {shape:?}, `embed_dim` and `queue_size` imply {wanted:?}"
            ));
        }
    }
    Ok(())
}

/// Returns the prefix of the text encoder's tensors.
///
/// # Errors
/// When no variant's word embeddings are there, or both's.
pub(super) fn text_prefix(tensors: &TensorReader) -> Result<&'static str, String> {
    let has = |prefix: &str| tensors.contains(&format!("{prefix}.{WORDS}"));
    match (has(PRETRAINING_TEXT), has(RETRIEVAL_TEXT)) {
        (true, false) => Ok(PRETRAINING_TEXT),
        (false, true) => Ok(RETRIEVAL_TEXT),
        (found, _) => Err(format!(
            "{} of the tensors `{PRETRAINING_TEXT}.{WORDS}` (pre-training) and `{RETRIEVAL_TEXT}.{WORDS}` (retrieval) are there: \
             not an ALBEF checkpoint with the authors' names",
            if found { "both" } else { "none" }
        )),
    }
}

/// Returns the side of the stored grid of position embeddings.
///
/// # Errors
/// When they are missing, or no square and a class token.
pub(super) fn position_grid(tensors: &TensorReader) -> Result<usize, String> {
    let shape = tensors.shape(POSITIONS).ok_or_else(|| format!("tensor `{POSITIONS}` is missing"))?;
    let side = match shape {
        [1, tokens, _] if *tokens > 1 => Some((tokens - 1).isqrt()).filter(|side| side * side == tokens - 1),
        _ => None,
    };
    side.ok_or_else(|| {
        format!("tensor `{POSITIONS}` has shape {shape:?}, expected [1, tokens, width] of a square of patches and a class token")
    })
}

/// Returns the width of the image encoder's MLPs, which no key of the configuration has: `mlp_ratio` is 4 in the authors' code.
pub(super) fn vision_mlp_width(tensors: &TensorReader) -> Option<usize> {
    tensors.shape(FIRST_MLP).and_then(|shape| shape.first()).copied().filter(|width| *width > 0)
}
