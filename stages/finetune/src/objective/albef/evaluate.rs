//! Losses of a part of held-out data.

use burn::tensor::Device;

use super::{
    groups::EncodedTexts,
    losses::{contrast_in_batch, matching, own_loss, word_logits},
    masking::mask_texts,
    negatives::draw_negatives,
};
use crate::{
    batch::{Batch, PatchSettings},
    model::albef::Albef,
    objective::accumulate::scalar,
    random::Random,
};

/// Seed of masks and negatives of held-out data, the same for every run.
const SEED: u64 = 0;
/// Stream of random numbers for masks and negatives of held-out data.
const EVALUATION_STREAM: u64 = 7;

/// Losses of a part, means over what they are of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Contrast within the part.
    pub contrastive: f64,
    /// Matching of true pairs and drawn negatives.
    pub matching: f64,
    /// Masked words; 0 where none is masked.
    pub words: f64,
    /// Number of masked tokens.
    pub masked: usize,
    /// Number of masked tokens of which the true id is the most likely one.
    pub right: usize,
}

/// Computes the losses of a part of at least two samples; masks and negatives follow from `number`. Neither model nor device may
/// have autodiff.
#[must_use]
pub fn evaluate(model: &Albef, part: &Batch, probability: f64, number: u64, device: &Device) -> Evaluation {
    let mut random = Random::new(SEED, &[EVALUATION_STREAM, number]);
    let pad = model.config.special_ids.pad;
    let encoders = model.encoders();
    let image = encoders.image(part.patches(&PatchSettings::of_albef(&model.config), device));
    let text = EncodedTexts::new(&encoders, &part.ids, pad, device);
    let features = [encoders.image_features(&image), text.features(&encoders)];
    let (contrastive, [image_to_text, text_to_image]) = contrast_in_batch(features, &model.temperature());
    let negatives = draw_negatives(&text_to_image, &image_to_text, &part.ids, &mut random);
    let matching = matching(&encoders, &image, &text, &negatives);
    let masked = mask_texts(&part.ids, &model.config, probability, &mut random);
    let mut found = Evaluation {
        contrastive: scalar(&contrastive),
        matching: scalar(&matching),
        words: 0.0,
        masked: masked.labels.len(),
        right: 0,
    };
    if found.masked > 0 {
        let logits = word_logits(&encoders, pad, &image, &masked);
        let best = logits.clone().argmax(1).reshape([-1]).into_data_as::<i64>();
        found.right = best.iter::<i64>().zip(&masked.labels).filter(|(best, (.., id))| best == id).count();
        let labels: Vec<usize> =
            masked.labels.iter().map(|(.., id)| usize::try_from(*id).unwrap_or(0)).collect();
        found.words = scalar(&own_loss(logits, &labels));
    }
    found
}
