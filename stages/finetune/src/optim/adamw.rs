//! AdamW (Loshchilov and Hutter 2019), as torch computes it, on flat parameters.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::Group;
use crate::kernels;

/// Constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWSettings {
    /// Decay of the first moment, [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment, > 0.
    pub epsilon: f64,
    /// Share of a matrix that is taken away per step, times the learning rate.
    pub weight_decay: f64,
}

/// Both moments of every trained parameter.
#[derive(Clone, Default)]
pub struct AdamWState {
    /// Steps taken.
    pub steps: u64,
    /// First and second moment, in the parameters' order; `None` before the first gradient.
    pub moments: Vec<Option<[Tensor<1>; 2]>>,
}

/// The optimizer.
pub struct AdamW {
    settings: AdamWSettings,
    groups: Vec<Group>,
    /// What it remembers.
    pub state: AdamWState,
}

/// Factors of one update, the same for all elements of a parameter.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// 1 - lr * weight decay.
    pub keep: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// lr / (1 - beta1^t).
    pub rate: f32,
    /// 1 / sqrt(1 - beta2^t).
    pub correction: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// The gradient's factor, from clipping.
    pub clip: f32,
}

impl AdamW {
    /// An optimizer that has not seen a gradient.
    #[must_use]
    pub fn new(settings: AdamWSettings, groups: Vec<Group>) -> Self {
        let state = AdamWState { steps: 0, moments: vec![None; groups.len()] };
        Self { settings, groups, state }
    }

    /// Treatment of each parameter.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// One step: parameters and gradients in one order, gradients multiplied by `clip` first. What has no gradient, and
    /// what is frozen, comes back as it was.
    #[must_use]
    pub fn step(
        &mut self,
        values: &[Tensor<1>],
        gradients: Vec<Option<Tensor<1>>>,
        lr: f64,
        clip: f64,
    ) -> Vec<Tensor<1>> {
        self.state.steps += 1;
        let t = i32::try_from(self.state.steps).unwrap_or(i32::MAX);
        let s = &self.settings;
        let rest = values.iter().zip(gradients).zip(&self.groups).zip(&mut self.state.moments);
        rest.map(|(((value, gradient), group), moments)| {
            let (true, Some(gradient)) = (group.trained, gradient) else { return value.clone() };
            let lr = lr * group.lr_scale;
            let update = Update {
                keep: (1.0 - lr * if group.decay { s.weight_decay } else { 0.0 }) as f32,
                beta1: s.beta1 as f32,
                beta2: s.beta2 as f32,
                rate: (lr / (1.0 - s.beta1.powi(t))) as f32,
                correction: (1.0 / (1.0 - s.beta2.powi(t)).sqrt()) as f32,
                epsilon: s.epsilon as f32,
                clip: clip as f32,
            };
            let value = value.clone().without_autodiff();
            let [m, v] = moments.take().unwrap_or_else(|| [value.zeros_like(), value.zeros_like()]);
            let (value, m, v) = kernels::adamw(value, gradient, [m, v], &update);
            *moments = Some([m, v]);
            value.autodiff().require_grad()
        })
        .collect()
    }
}

/// Global L2 norm of the gradients, and the factor that brings it to at most `limit` (torch's `clip_grad_norm_`).
#[must_use]
pub fn clip(gradients: &[Option<Tensor<1>>], limit: Option<f64>) -> (f64, f64) {
    let squares: Vec<Tensor<1>> =
        gradients.iter().flatten().map(|g| kernels::sum_of_squares(g.clone())).collect();
    if squares.is_empty() {
        return (0.0, 1.0);
    }
    let sums = Tensor::cat(squares, 0).to_data_as::<f32>();
    let norm = sums.iter::<f32>().map(f64::from).sum::<f64>().sqrt();
    let factor = limit.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
    (norm, factor)
}

/// Exponential moving average of the parameters, `[n]` each: `old + (new - old) * (1 - decay)`, which stays to the bit where
/// nothing moves.
#[must_use]
pub fn average(old: Vec<Tensor<1>>, new: &[Tensor<1>], decay: f64) -> Vec<Tensor<1>> {
    let pairs = old.into_iter().zip(new);
    pairs.map(|(old, new)| old.clone() + (new.clone().without_autodiff() - old) * (1.0 - decay)).collect()
}
