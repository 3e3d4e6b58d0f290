//! Masked words: which tokens are predicted, and what stands in their place (BERT, Devlin et al. 2019, section 3.1).

use crate::{model::albef::AlbefConfig, random::Random};

/// Label of a token that is not predicted, torch's `ignore_index`.
pub const IGNORED_LABEL: i64 = -100;
/// Share of the chosen tokens that become `[MASK]`.
const MASKED_SHARE: f64 = 0.8;
/// Share of the other chosen tokens that become a random word; the rest stay as they are.
const RANDOM_SHARE: f64 = 0.5;

/// Texts with masked tokens, as long as the texts that they are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedTexts {
    /// Ids, `[CLS]` first, without padding.
    pub ids: Vec<Vec<i64>>,
    /// Predicted tokens, row by row: text, position in it, id.
    pub labels: Vec<(usize, usize, i64)>,
}

impl MaskedTexts {
    /// Creates masked texts from ids and labels of the same shape, in which [`IGNORED_LABEL`] is not predicted.
    #[must_use]
    pub fn with_labels(ids: Vec<Vec<i64>>, labels: &[Vec<i64>]) -> Self {
        let rows = labels.iter().enumerate().flat_map(|(text, row)| {
            row.iter().enumerate().map(move |(position, label)| (text, position, *label))
        });
        Self { ids, labels: rows.filter(|(.., label)| *label != IGNORED_LABEL).collect() }
    }
}

/// Masks texts: every token but `[CLS]` and padding is chosen with `probability`; of the chosen ones 80 % become `[MASK]`, 10 % a
/// random id of the vocabulary, and 10 % stay.
#[must_use]
pub fn mask_texts(texts: &[Vec<i64>], c: &AlbefConfig, probability: f64, random: &mut Random) -> MaskedTexts {
    let special = c.special_ids;
    let mut masked = MaskedTexts { ids: texts.to_vec(), labels: Vec::new() };
    for (text, ids) in masked.ids.iter_mut().enumerate() {
        for (position, id) in ids.iter_mut().enumerate() {
            if *id == special.cls || *id == special.pad || random.fraction() >= probability {
                continue;
            }
            masked.labels.push((text, position, *id));
            if random.fraction() < MASKED_SHARE {
                *id = special.mask;
            } else if random.fraction() < RANDOM_SHARE {
                *id = random.below(c.bert.vocab_size) as i64;
            }
        }
    }
    masked
}
