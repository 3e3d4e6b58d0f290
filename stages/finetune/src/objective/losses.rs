//! The losses of one forward pass.

use burn::tensor::{Int, Tensor, activation::log_softmax};

use crate::{
    batch::PAD,
    model::{Coca, Output},
};

/// Weights of the losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// lambda_con, >= 0; at 0 no text embedding is computed.
    pub contrastive: f64,
    /// lambda_cap, >= 0; at 0 the decoder does not run.
    pub caption: f64,
    /// Share of a label's probability that is spread over the vocabulary, [0, 1).
    pub label_smoothing: f64,
}

/// Both losses, weighted, `[1]` each; `None` for a loss of weight 0.
#[derive(Debug)]
pub struct Losses {
    /// lambda_con * InfoNCE.
    pub contrastive: Option<Tensor<1>>,
    /// lambda_cap * cross-entropy.
    pub caption: Option<Tensor<1>>,
}

/// Computes InfoNCE over a batch, the mean of both directions (Radford et al. 2021).
///
/// `image` and `text` are L2-normalised features `[N, E]`, where row i of one belongs to row i of the other; `log_scale` `[1]` is
/// the logarithm of the inverse temperature.
#[must_use]
pub fn info_nce(image: Tensor<2>, text: Tensor<2>, log_scale: Tensor<1>) -> Tensor<1> {
    let n = image.dims()[0];
    let logits = image.matmul(text.transpose()) * log_scale.exp().unsqueeze();
    let diagonal = Tensor::<1, Int>::arange(0..n as i64, &logits.device()).reshape([n, 1]);
    let own = |logits: Tensor<2>| log_softmax(logits, 1).gather(1, diagonal.clone()).mean().neg();
    (own(logits.clone()) + own(logits.transpose())) * 0.5
}

/// Computes the sum of the cross-entropies of a batch's labels, divided by `total` labels: logits `[R, V]`, labels `[R]` with
/// [`PAD`] ignored.
///
/// Label smoothing `s` is torch's: `1 - s` times the label's own loss, `s` times the mean over the vocabulary.
#[must_use]
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, total: usize, smoothing: f64) -> Tensor<1> {
    let [rows, _] = logits.dims();
    let logp = log_softmax(logits, 1);
    let counted = labels.clone().not_equal_elem(PAD).float().reshape([rows, 1]);
    let own = logp.clone().gather(1, labels.reshape([rows, 1]));
    let per_row = if smoothing > 0.0 { own * (1.0 - smoothing) + logp.mean_dim(1) * smoothing } else { own };
    (per_row * counted).sum().neg() / (total.max(1) as f64)
}

/// Computes the losses of one forward pass. `total` is the number of labels of the whole batch, of which this may be a part.
#[must_use]
pub fn losses(
    model: &Coca,
    output: Output,
    labels: Tensor<1, Int>,
    total: usize,
    weights: &Weights,
) -> Losses {
    let contrastive = output.text_features.map(|text| {
        info_nce(output.image_features, text, model.parameters.vector("logit_scale")) * weights.contrastive
    });
    let caption = output
        .logits
        .map(|logits| cross_entropy(logits, labels, total, weights.label_smoothing) * weights.caption);
    Losses { contrastive, caption }
}
