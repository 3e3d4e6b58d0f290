//! Losses on held-out batches.

use burn::tensor::{Device, Tensor};

use crate::{
    batch::{Batch, PAD},
    model::Coca,
    objective::{Weights, cross_entropy, info_nce},
};

/// Losses of a model on held-out data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Weighted contrastive loss over batches of the training's size, mean over samples.
    pub contrastive: f64,
    /// Weighted caption loss, mean over labels.
    pub caption: f64,
    /// Share of captions of which every id is the most likely one given those before it, in [0, 1].
    pub exact: f64,
    /// Number of samples.
    pub samples: usize,
}

impl Validation {
    /// Returns the sum of both losses, by which the best model is chosen.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.contrastive + self.caption
    }
}

/// Computes the losses of `batches`, in parts of at most `part` samples, without label smoothing. `device` must be without autodiff.
#[must_use]
pub fn validate(
    model: &Coca,
    batches: &[Batch],
    part: usize,
    weights: &Weights,
    device: &Device,
) -> Validation {
    let model = model.without_autodiff();
    let (mut contrastive, mut caption, mut exact) = (0.0, 0.0, 0);
    let samples: usize = batches.iter().map(Batch::len).sum();
    let labels: usize = batches.iter().map(Batch::labels).sum();
    for batch in batches {
        let (mut images, mut texts) = (Vec::new(), Vec::new());
        for part in batch.parts(part) {
            let inputs = part.to_device(&model.config, device);
            let output = model.forward(
                inputs.patches,
                &inputs.texts,
                weights.contrastive > 0.0,
                weights.caption > 0.0,
            );
            if let Some(logits) = output.logits {
                let right = logits.clone().argmax(1).reshape([-1]).equal(inputs.labels.clone());
                let right = right.bool_or(inputs.labels.clone().equal_elem(PAD));
                let right = right.reshape([part.len() as i64, -1]).all_dim(1).int().sum();
                exact += usize::try_from(right.into_scalar::<i64>()).unwrap_or(0);
                caption += scalar(cross_entropy(logits, inputs.labels, 1, 0.0)) * weights.caption;
            }
            if let Some(text) = output.text_features {
                images.push(output.image_features);
                texts.push(text);
            }
        }
        if !texts.is_empty() {
            let scale = model.parameters.vector("logit_scale");
            let loss = info_nce(Tensor::cat(images, 0), Tensor::cat(texts, 0), scale);
            contrastive += scalar(loss) * weights.contrastive * batch.len() as f64;
        }
    }
    Validation {
        contrastive: contrastive / samples.max(1) as f64,
        caption: caption / labels.max(1) as f64,
        exact: exact as f64 / samples.max(1) as f64,
        samples,
    }
}

fn scalar(x: Tensor<1>) -> f64 {
    f64::from(x.into_scalar::<f32>())
}
