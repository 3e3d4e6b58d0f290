//! Gradients of one step, of a batch that may be too large for one forward pass.
//!
//! A batch in parts keeps the whole batch's negatives (GradCache, Gao et al. 2021): a first pass without autodiff computes all
//! features; InfoNCE over them gives each feature's gradient; a second pass, part by part, propagates these to the parameters
//! together with the caption loss. The gradients equal those of the whole batch at once, at the price of one more forward pass
//! of the two towers.

use burn::tensor::{Device, Gradients, Tensor};

use super::losses::{Losses, Weights, info_nce, losses};
use crate::{
    batch::Batch,
    model::{Coca, Output, Parameters},
};

/// Losses and gradients of one step.
#[derive(Debug)]
pub struct StepGradients {
    /// Weighted InfoNCE; 0 if its weight is 0.
    pub contrastive: f64,
    /// Weighted caption loss; 0 if its weight is 0. Of an ALBEF: the loss of masked words.
    pub caption: f64,
    /// Loss of matching pairs, which only ALBEF has.
    pub matching: Option<f64>,
    /// Gradient of their sum for every parameter, in order; `None` for parameters that are frozen or not in the loss.
    pub gradients: Vec<Option<Tensor<1>>>,
}

/// Copies a loss `[1]` to the host.
pub(super) fn scalar(x: &Tensor<1>) -> f64 {
    f64::from(x.to_data_as::<f32>().iter::<f32>().next().unwrap_or(f32::NAN))
}

impl StepGradients {
    /// Adds a loss's gradients; a loss without trained parameters has none.
    pub(super) fn add(&mut self, parameters: &Parameters, loss: Option<Tensor<1>>) {
        let Some(mut found) = loss.filter(Tensor::is_tracked).map(|loss| loss.backward()) else { return };
        for (sum, new) in self.gradients.iter_mut().zip(parameters.take_gradients(&mut found)) {
            *sum = match (sum.take(), new) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
        }
    }
}

/// Computes losses and gradients of `batch`, in parts of at most `part` samples. `device` must have autodiff.
#[must_use]
pub fn gradients(
    model: &Coca,
    batch: &Batch,
    part: usize,
    weights: &Weights,
    device: &Device,
) -> StepGradients {
    if batch.len() <= part {
        return whole_batch(model, batch, weights, device);
    }
    let mut step = StepGradients {
        contrastive: 0.0,
        caption: 0.0,
        matching: None,
        gradients: vec![None; model.parameters.list().len()],
    };
    let parts: Vec<Batch> = batch.parts(part);
    let feature_gradients =
        (weights.contrastive > 0.0).then(|| feature_gradients(model, &parts, weights, device, &mut step));
    let total = batch.labels();
    for (i, part) in parts.iter().enumerate() {
        let inputs = part.to_device(&model.config, device);
        let output =
            model.forward(inputs.patches, &inputs.texts, weights.contrastive > 0.0, weights.caption > 0.0);
        let contrastive = feature_gradients.as_ref().map(|gradients| {
            let (image, text) = gradients[i].clone();
            let texts = output.text_features.clone().map(|x| (x * text).sum());
            let images = (output.image_features.clone() * image).sum();
            texts.map_or(images.clone(), |texts| images + texts)
        });
        let captions = Output { text_features: None, ..output };
        let Losses { caption, .. } = losses(model, captions, inputs.labels, total, weights);
        step.caption += caption.as_ref().map_or(0.0, scalar);
        step.add(&model.parameters, sum(contrastive, caption));
    }
    step
}

/// Adds two losses, either of which may be missing.
fn sum(a: Option<Tensor<1>>, b: Option<Tensor<1>>) -> Option<Tensor<1>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

/// Computes the gradients of a batch in one forward pass.
fn whole_batch(model: &Coca, batch: &Batch, weights: &Weights, device: &Device) -> StepGradients {
    let inputs = batch.to_device(&model.config, device);
    let output =
        model.forward(inputs.patches, &inputs.texts, weights.contrastive > 0.0, weights.caption > 0.0);
    let Losses { contrastive, caption } = losses(model, output, inputs.labels, batch.labels(), weights);
    let (con, cap) = (contrastive.as_ref().map_or(0.0, scalar), caption.as_ref().map_or(0.0, scalar));
    let mut step = StepGradients {
        contrastive: con,
        caption: cap,
        matching: None,
        gradients: vec![None; model.parameters.list().len()],
    };
    step.add(&model.parameters, sum(contrastive, caption));
    step
}

/// Gradients of the contrastive loss for image and text features, `[N, E]` each.
type FeatureGradients = (Tensor<2>, Tensor<2>);

/// Runs the first pass: all features, InfoNCE over them, and its gradient for each part's features. The loss and the
/// temperature's gradient are added to `step`.
fn feature_gradients(
    model: &Coca,
    parts: &[Batch],
    weights: &Weights,
    device: &Device,
    step: &mut StepGradients,
) -> Vec<FeatureGradients> {
    let plain = device.clone().without_autodiff();
    let frozen = model.without_autodiff();
    let features = |part: &Batch| {
        let inputs = part.to_device(&model.config, &plain);
        let output = frozen.forward(inputs.patches, &inputs.texts, true, false);
        output.text_features.map(|text| (output.image_features, text))
    };
    let (images, texts): (Vec<_>, Vec<_>) = parts.iter().filter_map(features).unzip();
    let leaf = |parts: Vec<Tensor<2>>| Tensor::cat(parts, 0).autodiff().require_grad();
    let (images, texts) = (leaf(images), leaf(texts));
    let scale = model.parameters.vector("logit_scale");
    let loss = info_nce(images.clone(), texts.clone(), scale.clone()) * weights.contrastive;
    step.contrastive = scalar(&loss);
    let mut found = loss.backward();
    let split = |leaf: &Tensor<2>, found: &Gradients| {
        let whole = leaf.grad(found).unwrap_or_else(|| leaf.clone().without_autodiff().zeros_like());
        let mut from = 0;
        let mut cut = Vec::with_capacity(parts.len());
        for part in parts {
            cut.push(whole.clone().narrow(0, from, part.len()).autodiff());
            from += part.len();
        }
        cut
    };
    let gradients = split(&images, &found).into_iter().zip(split(&texts, &found)).collect();
    for (sum, name) in step.gradients.iter_mut().zip(model.parameters.list()) {
        if name.name == "logit_scale" {
            *sum = scale.grad_remove(&mut found);
        }
    }
    gradients
}
