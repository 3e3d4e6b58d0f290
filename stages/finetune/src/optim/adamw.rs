//! AdamW (Loshchilov and Hutter 2019) as torch computes it, on flat parameters.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::groups::Group;
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
    /// Decay of matrices per step, as a factor of the learning rate; >= 0.
    pub weight_decay: f64,
}

/// Both moments of every trained parameter.
#[derive(Clone, Debug, Default)]
pub struct AdamWState {
    /// Number of steps taken.
    pub steps: u64,
    /// First and second moment, in the parameters' order; `None` before the first gradient.
    pub moments: Vec<Option<[Tensor<1>; 2]>>,
}

/// The optimizer.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    groups: Vec<Group>,
    /// Its state, which checkpoints hold.
    pub state: AdamWState,
}

impl AdamW {
    /// Creates an optimizer without state.
    #[must_use]
    pub fn new(settings: AdamWSettings, groups: Vec<Group>) -> Self {
        let state = AdamWState { steps: 0, moments: vec![None; groups.len()] };
        Self { settings, groups, state }
    }

    /// Returns the group of each parameter.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Takes one step and returns the new values.
    ///
    /// `values` and `gradients` are in the parameters' order, `[n]` each; gradients are multiplied by `clip` first. Parameters
    /// that are frozen or have no gradient are returned unchanged.
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
            let update = kernels::AdamWUpdate {
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

/// Returns the global L2 norm of the gradients, and the factor that brings it to at most `limit` (torch's `clip_grad_norm_`).
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

/// Computes the exponential moving average of parameters, `[n]` each: `old + (new - old) * (1 - decay)`, which is bit-identical to
/// `old` where nothing changed.
#[must_use]
pub fn average(old: Vec<Tensor<1>>, new: &[Tensor<1>], decay: f64) -> Vec<Tensor<1>> {
    let pairs = old.into_iter().zip(new);
    pairs.map(|(old, new)| old.clone() + (new.clone().without_autodiff() - old) * (1.0 - decay)).collect()
}
