//! Losses on held-out batches.

use burn::tensor::Device;

use crate::{
    batch::Batch,
    model::Coca,
    objective::{Losses, PAD, Weights, losses},
};

/// What a validation found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Weighted contrastive loss, mean over samples.
    pub contrastive: f64,
    /// Weighted caption loss, mean over labels.
    pub caption: f64,
    /// Share of captions of which every id is the likeliest given those before it.
    pub exact: f64,
    /// Samples.
    pub samples: usize,
}

impl Validation {
    /// What runs are judged by.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.contrastive + self.caption
    }
}

/// Forward passes over `batches`, without label smoothing; `device` without autodiff.
#[must_use]
pub fn validate(model: &Coca, batches: &[Batch], weights: &Weights, device: &Device) -> Validation {
    let weights = Weights { label_smoothing: 0.0, ..*weights };
    let model = model.without_autodiff();
    let (mut contrastive, mut caption, mut exact) = (0.0, 0.0, 0);
    let samples: usize = batches.iter().map(Batch::len).sum();
    let labels: usize = batches.iter().map(Batch::labels).sum();
    for batch in batches {
        let inputs = batch.to_device(&model.config, device);
        let output =
            model.forward(inputs.patches, &inputs.texts, weights.contrastive > 0.0, weights.caption > 0.0);
        if let Some(logits) = &output.logits {
            let right = logits.clone().argmax(1).reshape([-1]).equal(inputs.labels.clone());
            let right =
                right.bool_or(inputs.labels.clone().equal_elem(PAD)).reshape([batch.len() as i64, -1]);
            exact += right.all_dim(1).int().sum().into_scalar::<i64>() as usize;
        }
        let Losses { contrastive: con, caption: cap } =
            losses(&model, output, inputs.labels, batch.labels(), &weights);
        let value = |x: Option<burn::tensor::Tensor<1>>| x.map_or(0.0, |x| f64::from(x.into_scalar::<f32>()));
        contrastive += value(con) * batch.len() as f64;
        caption += value(cap) * batch.labels() as f64;
    }
    Validation {
        contrastive: contrastive / samples.max(1) as f64,
        caption: caption / labels.max(1) as f64,
        exact: exact as f64 / samples.max(1) as f64,
        samples,
    }
}
