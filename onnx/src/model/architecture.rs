//! Kinds of models, and in which precision their graphs compute.

use serde::{Deserialize, Serialize};

/// Precision of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single.
    Fp32,
    /// IEEE half.
    Fp16,
    /// Linear layers in 8 bits, weights with a scale per output, activations with one per row; the rest in IEEE single.
    Int8,
}

impl Precision {
    /// Returns the bytes per number in caches and in cross-attention keys and values.
    #[must_use]
    pub fn cache_bytes(self) -> usize {
        match self {
            Self::Fp32 | Self::Int8 => 4,
            Self::Fp16 => 2,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        })
    }
}

/// Kind of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Captions images, and scores captions.
    Coca,
    /// Scores captions only: two towers without a decoder.
    Clip,
    /// Scores captions only: two towers trained with a sigmoid per pair.
    Siglip,
    /// Captions images only: an image encoder, and a text decoder that attends to it in every layer.
    Blip,
    /// Scores captions only, by embeddings and by a text encoder that attends to the image.
    #[serde(rename = "blip-retrieval")]
    BlipRetrieval,
    /// Scores captions only, as [`Architecture::BlipRetrieval`]; the first layers of the text encoder do not see the image.
    Albef,
}

/// Whose generation a model's captions follow, where programs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationRules {
    /// open_clip's: padding is never generated; at the maximal length the end token is written whatever the logits are, except by
    /// beam search, which ends as in [`GenerationRules::Transformers4`].
    OpenClip,
    /// transformers' until version 4: any token may be generated, and at the maximal length a caption ends without an end token. Beam
    /// search (BeamSearchScorer) compares the best continuation, even one that has just ended, with the worst finished beam, and
    /// finishes all unfinished beams at the maximal length.
    Transformers4,
    /// transformers' since version 5: the same, but that beam search looks at the best beam that goes on, and at the maximal length
    /// finishes the best `beams` continuations.
    Transformers,
}

impl GenerationRules {
    /// Returns whether padding is never generated.
    pub(crate) fn bans_padding(self) -> bool {
        self == Self::OpenClip
    }

    /// Returns whether the end token is written at the maximal length, other than by beam search.
    pub(crate) fn forces_end(self) -> bool {
        self == Self::OpenClip
    }

    /// Returns whether beam search is BeamSearchScorer's.
    pub(crate) fn has_beam_scorer(self) -> bool {
        matches!(self, Self::OpenClip | Self::Transformers4)
    }
}

impl Architecture {
    /// Returns the name in `model.json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coca => "coca",
            Self::Clip => "clip",
            Self::Siglip => "siglip",
            Self::Blip => "blip",
            Self::BlipRetrieval => "blip-retrieval",
            Self::Albef => "albef",
        }
    }

    /// Returns the version of `model.json` that describes it: 1 for CoCa and CLIP, which every version of this program reads, 2 for
    /// what came later.
    #[must_use]
    pub fn format_version(self) -> u32 {
        match self {
            Self::Coca | Self::Clip => 1,
            Self::Siglip | Self::Blip | Self::BlipRetrieval | Self::Albef => 2,
        }
    }

    /// Returns whether the model embeds images and texts, so that it can score captions.
    #[must_use]
    pub fn scores(self) -> bool {
        match self {
            Self::Coca | Self::Clip | Self::Siglip | Self::BlipRetrieval | Self::Albef => true,
            Self::Blip => false,
        }
    }

    /// Returns whose generation its captions follow.
    #[must_use]
    pub fn generation_rules(self) -> GenerationRules {
        match self {
            Self::Coca | Self::Clip | Self::Siglip => GenerationRules::OpenClip,
            Self::Blip | Self::BlipRetrieval | Self::Albef => GenerationRules::Transformers,
        }
    }
}
