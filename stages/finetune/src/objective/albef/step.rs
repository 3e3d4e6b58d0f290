//! Gradients of one step.

use burn::tensor::{Device, Tensor};

use super::{
    losses::{AlbefInputs, losses},
    masking::mask_texts,
};
use crate::{
    batch::{Batch, PatchSettings},
    model::albef::Albef,
    objective::{StepGradients, accumulate::scalar},
    random::Random,
};

/// Stream of random numbers for masked tokens.
const MASK_STREAM: u64 = 5;
/// Stream of random numbers for negatives.
const NEGATIVE_STREAM: u64 = 6;

/// Settings of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlbefSettings {
    /// Samples per part; divides the batch.
    pub part: usize,
    /// Decay of the momentum copy, [0, 1].
    pub momentum: f64,
    /// Share of the momentum copy's targets in this step, [0, 1].
    pub alpha: f64,
    /// Weight of the contrastive loss; the others' are 1.
    pub contrastive_weight: f64,
    /// Probability that a token is masked, [0, 1].
    pub mask_probability: f64,
    /// Seed of masks and negatives.
    pub seed: u64,
    /// Number of the step; masks and negatives follow from it and the seed.
    pub step: u64,
}

/// Returns alpha in a step counted from 0: it rises from 0 over the first `warmup` steps, in the authors' code the first epoch.
#[must_use]
pub fn alpha_at(alpha: f64, step: u64, warmup: u64) -> f64 {
    if step >= warmup { alpha } else { alpha * step as f64 / warmup as f64 }
}

/// Computes losses and gradients of `batch`, and updates temperature, momentum copy and queues. `device` must have autodiff.
#[must_use]
pub fn gradients(model: &mut Albef, batch: &Batch, s: &AlbefSettings, device: &Device) -> StepGradients {
    model.clamp_temperature();
    model.update_momentum(s.momentum);
    let mut step = StepGradients {
        contrastive: 0.0,
        caption: 0.0,
        matching: Some(0.0),
        gradients: vec![None; model.parameters.list().len()],
    };
    let mut matching = 0.0;
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    for (i, part) in batch.parts(s.part).iter().enumerate() {
        let stream = |kind: u64| Random::new(s.seed, &[kind, s.step, i as u64]);
        let masked = mask_texts(&part.ids, &model.config, s.mask_probability, &mut stream(MASK_STREAM));
        let inputs = AlbefInputs {
            patches: part.patches(&PatchSettings::of_albef(&model.config), device),
            texts: &part.ids,
            masked: &masked,
            negatives: None,
            alpha: s.alpha,
        };
        let found = losses(model, inputs, &mut stream(NEGATIVE_STREAM));
        let share = part.len() as f64 / batch.len() as f64;
        step.contrastive += scalar(&found.contrastive) * share;
        matching += scalar(&found.matching) * share;
        step.caption += found.words.as_ref().map_or(0.0, scalar) * share;
        let [image, text] = found.momentum_features;
        images.push(image);
        texts.push(text);
        let sum = found.contrastive * s.contrastive_weight + found.matching;
        let sum = found.words.map_or(sum.clone(), |words| sum + words);
        step.add(&model.parameters, Some(sum * share));
    }
    step.matching = Some(matching);
    model.enqueue(Tensor::cat(images, 0), Tensor::cat(texts, 0));
    step
}
