//! How texts become ids and similarities probabilities, where a model does not follow CLIP.

use serde::{Deserialize, Serialize};

/// What is done to a text before the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextCleaning {
    /// open_clip's `lower`: ftfy's repairs, HTML entities, white space folded, lower case. Start and end tokens that a text spells
    /// out are the tokens.
    Lower,
    /// open_clip's `whitespace`: the same without lower case.
    Whitespace,
    /// open_clip's `canonicalize`: the repairs, then `_` as a space, no ASCII punctuation, lower case, white space folded.
    Canonicalize,
    /// That of transformers' SiglipTokenizer: lower case, no ASCII punctuation, white space folded.
    Siglip,
    /// Lower case alone: transformers' Siglip2Tokenizer.
    Lowercase,
}

/// How a text becomes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextRules {
    /// What is done to a text before the tokenizer.
    pub cleaning: TextCleaning,
    /// Whether texts begin with `special_ids.start`.
    pub has_start: bool,
    /// Whether every text is padded to the context's length, because the text encoder reads padding like words.
    pub is_padded: bool,
}

impl TextRules {
    /// CLIP's, which a model without rules of its own follows.
    pub const CLIP: Self = Self { cleaning: TextCleaning::Lower, has_start: true, is_padded: false };
}

/// Parameters of the probability that a text belongs to an image, which SigLIP's loss is made of:
/// `1 / (1 + exp(-(scale * similarity + bias)))`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sigmoid {
    /// Factor of the similarity: e to the power of the checkpoint's `logit_scale`.
    pub scale: f32,
    /// What is added: the checkpoint's `logit_bias`.
    pub bias: f32,
}

impl Sigmoid {
    /// Returns the probability of a similarity in -1 to 1.
    #[must_use]
    pub fn probability(self, similarity: f32) -> f32 {
        let logit = f64::from(self.scale) * f64::from(similarity) + f64::from(self.bias);
        (1.0 / (1.0 + (-logit).exp())) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::Sigmoid;

    #[test]
    fn probability_is_half_where_scale_and_bias_cancel() {
        let sigmoid = Sigmoid { scale: 100.0, bias: -10.0 };
        assert!((sigmoid.probability(0.1) - 0.5).abs() < 1e-6);
        assert!(sigmoid.probability(-1.0) < 1e-40 && sigmoid.probability(1.0) > 0.999_999);
    }
}
