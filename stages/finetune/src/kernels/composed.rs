//! The operators composed of burn's own: for GPUs, where the backend fuses, and as the reference that `flex.rs` is tested
//! against.

#![cfg(any(feature = "cuda", test))]

#[cfg(feature = "cuda")]
use burn::backend::ops::{ActivationOps, FloatTensorOps, ModuleOps};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::Shape;

#[cfg(feature = "cuda")]
impl super::ops::Kernels for burn::backend::Cube {
    fn gelu_forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }
    fn gelu_back(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_backward(x, grad)
    }
    fn norm_forward(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        Self::layer_norm(x, gain, Some(shift), epsilon)
    }
    fn norm_back(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> [FloatTensor<Self>; 3] {
        norm_back::<Self>(x, gain, grad, epsilon)
    }
    fn softmax_forward(
        scores: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        scale: f64,
        causal: bool,
    ) -> FloatTensor<Self> {
        let shape = scores.shape();
        let device = Self::float_device(&scores);
        let below = causal.then(|| below::<Self>(shape[2], shape[3], &device));
        softmax_forward::<Self>(scores, hidden, scale, below)
    }
    fn softmax_back(shares: FloatTensor<Self>, grad: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        softmax_back::<Self>(shares, grad, scale)
    }
}

/// Computes LayerNorm's derivatives, see `Kernels::norm_back`.
pub(super) fn norm_back<B: Backend>(
    x: FloatTensor<B>,
    gain: FloatTensor<B>,
    grad: FloatTensor<B>,
    epsilon: f64,
) -> [FloatTensor<B>; 3] {
    let width = x.shape()[1];
    let mean = |x: FloatTensor<B>| B::float_mean_dim(x, 1);
    let centred = B::float_sub(x.clone(), mean(x));
    let variance = mean(B::float_mul(centred.clone(), centred.clone()));
    let root = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    let normed = B::float_div(centred, root.clone());
    let gain = B::float_reshape(gain, Shape::from([1, width]));
    let column_sum = |x: FloatTensor<B>| B::float_reshape(B::float_sum_dim(x, 0), Shape::from([width]));
    let for_gain = column_sum(B::float_mul(grad.clone(), normed.clone()));
    let for_shift = column_sum(grad.clone());
    let scaled = B::float_mul(grad, gain);
    let by_value = mean(B::float_mul(scaled.clone(), normed.clone()));
    let inner = B::float_sub(scaled.clone(), mean(scaled));
    let inner = B::float_sub(inner, B::float_mul(normed, by_value));
    [B::float_div(inner, root), for_gain, for_shift]
}

/// Computes masked softmax, see `Kernels::softmax_forward`. `below` is the causal mask `[T, S]`, additive.
pub(super) fn softmax_forward<B: Backend>(
    scores: FloatTensor<B>,
    hidden: FloatTensor<B>,
    scale: f64,
    below: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let shape = scores.shape();
    let (queries, keys) = (shape[2], shape[3]);
    let mut scores = B::float_mul_scalar(scores, scale.into());
    if hidden.shape().num_elements() > 1 {
        let batch = hidden.shape()[0];
        scores = B::float_add(scores, B::float_reshape(hidden, Shape::from([batch, 1, 1, keys])));
    }
    if let Some(below) = below {
        scores = B::float_add(scores, B::float_reshape(below, Shape::from([1, 1, queries, keys])));
    }
    B::softmax(scores, 3)
}

/// Computes softmax's derivative, see `Kernels::softmax_back`.
pub(super) fn softmax_back<B: Backend>(
    shares: FloatTensor<B>,
    grad: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    let mean = B::float_sum_dim(B::float_mul(shares.clone(), grad.clone()), 3);
    B::float_mul_scalar(B::float_mul(shares, B::float_sub(grad, mean)), scale.into())
}

/// Returns the additive causal mask `[T, S]`: 0, and minus infinity above the diagonal.
pub(super) fn below<B: Backend>(queries: usize, keys: usize, device: &B::Device) -> FloatTensor<B> {
    let value = |i: usize| if i % keys > i / keys { f32::NEG_INFINITY } else { 0.0 };
    let values: Vec<f32> = (0..queries * keys).map(value).collect();
    B::float_from_data(burn::tensor::TensorData::new(values, [queries, keys]), device)
}
