//! The arithmetic of AdamW on one parameter.

use burn::tensor::Tensor;

/// Factors of one update, the same for all elements of a parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamWUpdate {
    /// 1 - lr * weight decay.
    pub(crate) keep: f32,
    /// Decay of the first moment.
    pub(crate) beta1: f32,
    /// Decay of the second moment.
    pub(crate) beta2: f32,
    /// lr / (1 - beta1^t).
    pub(crate) rate: f32,
    /// 1 / sqrt(1 - beta2^t).
    pub(crate) correction: f32,
    /// Added to the root of the second moment.
    pub(crate) epsilon: f32,
    /// Factor of the gradient, from clipping.
    pub(crate) clip: f32,
}

/// Computes one AdamW update of `[n]`: value, gradient and both moments to new value and moments.
pub(crate) fn adamw(
    value: Tensor<1>,
    gradient: Tensor<1>,
    [m, v]: [Tensor<1>; 2],
    u: &AdamWUpdate,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let gradient = gradient * u.clip;
    let m = m * u.beta1 + gradient.clone() * (1.0 - u.beta1);
    let v = v * u.beta2 + gradient.square() * (1.0 - u.beta2);
    let root = v.clone().sqrt() * u.correction + u.epsilon;
    (value * u.keep - m.clone() / root * u.rate, m, v)
}
