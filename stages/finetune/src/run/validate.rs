//! Losses on held-out batches.

use burn::tensor::{Device, Tensor};

use crate::{
    batch::{Batch, PAD},
    model::{Coca, albef::Albef},
    objective::{
        Weights,
        albef::{AlbefSettings, evaluate},
        cross_entropy, info_nce,
    },
};

/// Losses of a model on held-out data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Weighted contrastive loss over batches of the training's size, mean over samples.
    pub contrastive: f64,
    /// Weighted caption loss, mean over labels.
    pub caption: f64,
    /// Loss of matching pairs with drawn negatives, mean over samples; of an ALBEF.
    pub matching: Option<f64>,
    /// Share of captions of which every id is the most likely one given those before it, in [0, 1]; of an ALBEF the share of
    /// masked words that are the most likely ones.
    pub exact: f64,
    /// Number of samples.
    pub samples: usize,
}

impl Validation {
    /// Returns the sum of the losses, by which the best model is chosen.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.contrastive + self.caption + self.matching.unwrap_or(0.0)
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
        matching: None,
        exact: exact as f64 / samples.max(1) as f64,
        samples,
    }
}

/// Computes an ALBEF's losses on `batches`, in parts as in training: contrast within a part without queue and soft labels, matching
/// with negatives and words with masks that are the same in every validation. `device` must be without autodiff.
#[must_use]
pub fn validate_albef(
    model: &Albef,
    batches: &[Batch],
    settings: &AlbefSettings,
    device: &Device,
) -> Validation {
    let model = model.without_autodiff();
    let mut found = Validation { contrastive: 0.0, caption: 0.0, matching: None, exact: 0.0, samples: 0 };
    let (mut matching, mut words, mut right, mut parts) = (0.0, 0, 0, 0);
    // A single sample has no negative.
    for part in batches.iter().flat_map(|b| b.parts(settings.part)).filter(|part| part.len() > 1) {
        let of_part = evaluate(&model, &part, settings.mask_probability, parts, device);
        parts += 1;
        found.samples += part.len();
        found.contrastive += of_part.contrastive * part.len() as f64;
        matching += of_part.matching * part.len() as f64;
        found.caption += of_part.words * of_part.masked as f64;
        words += of_part.masked;
        right += of_part.right;
    }
    let samples = found.samples.max(1) as f64;
    found.contrastive /= samples;
    found.matching = Some(matching / samples);
    found.caption /= words.max(1) as f64;
    found.exact = right as f64 / words.max(1) as f64;
    found
}

fn scalar(x: Tensor<1>) -> f64 {
    f64::from(x.into_scalar::<f32>())
}
