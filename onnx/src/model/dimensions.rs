//! Sizes of a model's inputs and outputs, as `model.json` has them.

use serde::{Deserialize, Serialize};

/// Sizes of a model's inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimensions {
    /// Width of the shared embedding, `E`; 0 without one (a BLIP captioner).
    pub embed_dim: usize,
    /// Size of the vocabulary, `V`.
    pub vocab_size: usize,
    /// Longest text, ids with start and end, `T`.
    pub context_length: usize,
    /// Tokens of an image in the image encoder, from which the number of images per call follows; not in folders of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_tokens: Option<usize>,
    /// Sizes of the decoder, if there is one; in `model.json` they are among the others.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderDimensions>,
    /// Sizes of the graph that matches texts with images, if there is one; in `model.json` they are among the others.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionDimensions>,
}

/// Sizes of the graph that matches texts with images (ITM).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FusionDimensions {
    /// Tokens of an image, `Q`.
    #[serde(rename = "fusion_image_tokens")]
    pub image_tokens: usize,
    /// Width of an image's tokens.
    #[serde(rename = "fusion_image_width")]
    pub image_width: usize,
    /// Width of a text's tokens.
    #[serde(rename = "fusion_text_width")]
    pub text_width: usize,
    /// Id of the token that texts that are matched begin with: `[ENC]` of a BLIP, `[CLS]` of an ALBEF.
    #[serde(rename = "fusion_enc_id")]
    pub enc_id: i64,
    /// Longest text that the model was trained with, in ids, where that is less than the context: longer ones are truncated (an ALBEF).
    #[serde(rename = "max_text_tokens", default, skip_serializing_if = "Option::is_none")]
    pub max_text_tokens: Option<usize>,
}

/// Sizes of the decoder's graph, which runs the multimodal layers and, unless the decoder reads embeddings, the text tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecoderDimensions {
    /// Tokens that the decoder cross-attends to, `Q`.
    pub image_tokens: usize,
    /// Layers of the text tower with a KV cache; 0 for a decoder that reads token and position embeddings
    /// (`recaption.multimodal_input` = `embeddings`).
    pub text_layers: usize,
    /// Heads of the text tower.
    pub text_heads: usize,
    /// Size of one head of the text tower, in the graph.
    pub text_head_dim: usize,
    /// Pairs of layers of the multimodal decoder.
    pub decoder_layers: usize,
    /// Heads of the multimodal decoder.
    pub decoder_heads: usize,
    /// Size of one head of the multimodal decoder, in the graph.
    pub decoder_head_dim: usize,
}

impl DecoderDimensions {
    /// Returns the number of layers with a KV cache.
    pub(crate) fn cached_layers(&self) -> usize {
        self.text_layers + self.decoder_layers
    }

    /// Returns heads and head size of cached layer `i`; the text tower's layers come first.
    pub(crate) fn cache_heads(&self, i: usize) -> (usize, usize) {
        if i < self.text_layers {
            (self.text_heads, self.text_head_dim)
        } else {
            (self.decoder_heads, self.decoder_head_dim)
        }
    }

    /// Returns the width of cross-attention keys and values.
    #[must_use]
    pub fn cross_width(&self) -> usize {
        self.decoder_heads * self.decoder_head_dim
    }
}
