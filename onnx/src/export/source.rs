//! What is exported of each kind of checkpoint: its graphs, and what `model.json` says of it.

use super::{albef, blip, decoder, error::ExportError, graph, image_encoder, text_encoder, tower::Tower};
use crate::{
    checkpoint::{
        Activation, AlbefCheckpoint, AnyCheckpoint, BlipConfig, BlipTask, CheckpointError, ModelConfig,
        TensorReader,
    },
    model::{
        Architecture, DECODER_FILE, DecoderDimensions, Dimensions, FUSION_FILE, FusionDimensions,
        IMAGE_ENCODER_FILE, MLM_FILE, ModelFile, ModelSpec, Precision, TEXT_ENCODER_FILE, padded_head_dim,
    },
};

/// A graph of a model folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Graph {
    /// Pixels to features and cross-attention keys and values.
    ImageEncoder,
    /// Token ids to features.
    TextEncoder,
    /// Token ids and image tokens to matching logits.
    Fusion,
    /// Masked token ids and image tokens to logits of words.
    Mlm,
    /// One step of generation.
    Decoder,
}

const IMAGE_ENCODER: (&str, Graph) = (IMAGE_ENCODER_FILE, Graph::ImageEncoder);
const TEXT_ENCODER: (&str, Graph) = (TEXT_ENCODER_FILE, Graph::TextEncoder);
const FUSION: (&str, Graph) = (FUSION_FILE, Graph::Fusion);
const MLM: (&str, Graph) = (MLM_FILE, Graph::Mlm);
const DECODER: (&str, Graph) = (DECODER_FILE, Graph::Decoder);

impl AnyCheckpoint {
    /// Returns the tensors.
    #[must_use]
    pub fn tensors(&self) -> &TensorReader {
        match self {
            Self::OpenClip(checkpoint) => &checkpoint.tensors,
            Self::Blip(checkpoint) => &checkpoint.tensors,
            Self::Albef(checkpoint) => &checkpoint.tensors,
        }
    }

    /// Returns the activation of all MLPs.
    pub(super) fn activation(&self) -> Activation {
        match self {
            Self::OpenClip(checkpoint) => checkpoint.config.activation,
            Self::Blip(_) | Self::Albef(_) => Activation::Gelu,
        }
    }

    /// Returns the graphs with the names of their files, in the order in which they are built.
    pub(super) fn graphs(&self) -> &'static [(&'static str, Graph)] {
        match self {
            Self::OpenClip(checkpoint) if checkpoint.config.decoder.is_none() => {
                &[IMAGE_ENCODER, TEXT_ENCODER]
            }
            Self::OpenClip(_) => &[IMAGE_ENCODER, TEXT_ENCODER, DECODER],
            Self::Blip(checkpoint) => match checkpoint.config.task {
                BlipTask::Captions => &[IMAGE_ENCODER, DECODER],
                BlipTask::Retrieval { .. } => &[IMAGE_ENCODER, TEXT_ENCODER, FUSION],
            },
            Self::Albef(checkpoint) if checkpoint.has_mlm => &[IMAGE_ENCODER, TEXT_ENCODER, FUSION, MLM],
            Self::Albef(_) => &[IMAGE_ENCODER, TEXT_ENCODER, FUSION],
        }
    }

    /// Builds one of the graphs.
    ///
    /// # Errors
    /// When a tensor is missing or malformed, or the weights cannot be written.
    pub(super) fn build(&self, graph: Graph, t: &mut Tower<'_>) -> Result<(), ExportError> {
        match self {
            Self::OpenClip(checkpoint) => {
                let c = &checkpoint.config;
                match graph {
                    Graph::ImageEncoder => image_encoder::build(t, c),
                    Graph::TextEncoder => text_encoder::build(t, c),
                    Graph::Decoder => c.decoder.as_ref().map_or(Ok(()), |d| decoder::build(t, c, d)),
                    Graph::Fusion | Graph::Mlm => Ok(()),
                }
            }
            Self::Blip(checkpoint) => match graph {
                Graph::ImageEncoder => blip::image_encoder(t, &checkpoint.config),
                Graph::Decoder => blip::decoder(t, &checkpoint.config),
                Graph::TextEncoder => blip::text_encoder(t, &blip::scoring_text(&checkpoint.config)),
                Graph::Fusion => blip::fusion(t, &blip::scoring_text(&checkpoint.config)),
                Graph::Mlm => Ok(()),
            },
            Self::Albef(checkpoint) => match graph {
                Graph::ImageEncoder => albef::image_encoder(t, checkpoint),
                Graph::TextEncoder => blip::text_encoder(t, &albef::scoring_text(checkpoint)),
                Graph::Fusion => blip::fusion(t, &albef::scoring_text(checkpoint)),
                Graph::Mlm => albef::mlm(t, checkpoint),
                Graph::Decoder => Ok(()),
            },
        }
    }

    /// Returns the tensors that serve training only.
    pub(super) fn unused(&self) -> &'static [&'static str] {
        match self {
            Self::OpenClip(_) => &["logit_scale", "logit_bias"],
            Self::Blip(_) | Self::Albef(_) => &[],
        }
    }

    /// Returns the contents of the tokenizer, if there is one.
    ///
    /// # Errors
    /// When a file is unreadable or malformed.
    pub fn tokenizer(&self) -> Result<Option<Vec<u8>>, CheckpointError> {
        match self {
            Self::OpenClip(checkpoint) => checkpoint.tokenizer(),
            Self::Blip(checkpoint) => checkpoint.tokenizer(),
            Self::Albef(checkpoint) => checkpoint.tokenizer(),
        }
    }

    /// Returns the contents of `model.json`.
    ///
    /// # Errors
    /// When the weights cannot be read again for their digest.
    pub(super) fn describe(
        &self,
        precision: Precision,
        files: Vec<ModelFile>,
    ) -> Result<ModelSpec, ExportError> {
        let (mut text, mut sigmoid) = (None, None);
        let (architecture, dimensions, special_ids, preprocessing, normalisation) = match self {
            Self::OpenClip(checkpoint) => {
                let c = &checkpoint.config;
                let architecture = c.architecture();
                text = checkpoint.text_rules();
                if architecture == Architecture::Siglip {
                    sigmoid = checkpoint.sigmoid()?;
                }
                (architecture, open_clip_dimensions(c), checkpoint.special_ids()?, c.preprocess, None)
            }
            Self::Blip(checkpoint) => {
                let c = &checkpoint.config;
                let (normalisation, mut special) = (Some(c.normalisation), c.text.special);
                let (architecture, dimensions) = match c.task {
                    BlipTask::Captions => (Architecture::Blip, captioner_dimensions(c)),
                    BlipTask::Retrieval { .. } => {
                        let (cls, enc) = checkpoint.text_starts()?;
                        special.start = cls;
                        (Architecture::BlipRetrieval, retrieval_dimensions(c, enc))
                    }
                };
                (architecture, dimensions, special, c.preprocess, normalisation)
            }
            Self::Albef(checkpoint) => {
                let c = &checkpoint.config;
                let special = c.text.special;
                (
                    Architecture::Albef,
                    albef_dimensions(checkpoint),
                    special,
                    c.preprocess,
                    Some(c.normalisation),
                )
            }
        };
        Ok(ModelSpec {
            format_version: architecture.format_version().max(if text.is_some() { 2 } else { 1 }),
            architecture,
            dimensions,
            special_ids,
            image_size: preprocessing.size,
            preprocessing,
            normalisation,
            text,
            sigmoid,
            precision,
            opset: graph::OPSET,
            source_sha256: self.tensors().sha256()?,
            parameters: self.tensors().parameters(),
            files,
        })
    }
}

fn open_clip_dimensions(c: &ModelConfig) -> Dimensions {
    let context = c.text.context_length;
    Dimensions {
        embed_dim: c.embed_dim,
        vocab_size: c.text.vocab_size,
        context_length: c.decoder.map_or(context, |d| context.min(d.context_length + 1)),
        encoder_tokens: Some(c.vision.tokens()),
        decoder: c.decoder.map(|d| DecoderDimensions {
            image_tokens: c.image_tokens(),
            text_layers: c.decoding_text_layers(),
            text_heads: c.text.heads,
            text_head_dim: padded_head_dim(c.text.width / c.text.heads),
            decoder_layers: d.layers,
            decoder_heads: d.heads,
            decoder_head_dim: padded_head_dim(d.width / d.heads),
        }),
        fusion: None,
    }
}

fn captioner_dimensions(c: &BlipConfig) -> Dimensions {
    let (heads, head_dim) = (c.text.heads, padded_head_dim(c.text.width / c.text.heads));
    Dimensions {
        embed_dim: 0,
        vocab_size: c.text.vocab_size,
        context_length: c.text.context_length,
        encoder_tokens: Some(c.vision.tokens()),
        decoder: Some(DecoderDimensions {
            image_tokens: c.vision.tokens(),
            text_layers: 0,
            text_heads: heads,
            text_head_dim: head_dim,
            decoder_layers: c.text.layers,
            decoder_heads: heads,
            decoder_head_dim: head_dim,
        }),
        fusion: None,
    }
}

fn retrieval_dimensions(c: &BlipConfig, enc_id: i64) -> Dimensions {
    Dimensions {
        embed_dim: c.embed_dim(),
        vocab_size: c.text.vocab_size,
        context_length: c.text.context_length,
        encoder_tokens: Some(c.vision.tokens()),
        decoder: None,
        fusion: Some(FusionDimensions {
            image_tokens: c.vision.tokens(),
            image_width: c.vision.width,
            text_width: c.text.width,
            enc_id,
            max_text_tokens: None,
        }),
    }
}

fn albef_dimensions(checkpoint: &AlbefCheckpoint) -> Dimensions {
    let c = &checkpoint.config;
    Dimensions {
        embed_dim: c.embed_dim,
        vocab_size: c.text.vocab_size,
        context_length: c.text.context_length,
        encoder_tokens: Some(c.vision.tokens()),
        decoder: None,
        fusion: Some(FusionDimensions {
            image_tokens: c.vision.tokens(),
            image_width: c.vision.width,
            text_width: c.text.width,
            enc_id: c.text.special.start,
            max_text_tokens: Some(checkpoint.max_text_tokens),
        }),
    }
}
