//! The operators that training spends its time in, beside matrix products: fused, with derivatives of their own.
//!
//! burn composes LayerNorm and softmax of many small operators when it differentiates, and its CPU backend computes erf
//! one element at a time. Here each is one pass over memory (`flex.rs`, on the CPU) or burn's own composition
//! (`composed.rs`, elsewhere). `benchmarks/training.py` measures what that brings.

mod composed;
mod flex;
mod ops;
#[cfg(test)]
mod tests;

use burn::{
    backend::Dispatch,
    tensor::{Bool, DType, Tensor},
};
use ops::TrainingOps;

use crate::{model::Visible, optim::Update};

/// Elements that are summed together.
const SUMMED: usize = 4096;

/// LayerNorm over the last dimension. `[R, W] -> [R, W]`.
pub fn layer_norm(x: Tensor<2>, gain: Tensor<1>, shift: Tensor<1>, epsilon: f64) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_layer_norm(
        x.into_dispatch(),
        gain.into_dispatch(),
        shift.into_dispatch(),
        epsilon,
    ))
}

/// `x * Phi(x)`, not its tanh approximation; Phi to 1.5e-7 on the CPU. In single, whatever comes in.
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    let dtype = x.dtype();
    let y = Tensor::from_dispatch(Dispatch::fused_gelu(cast(x, DType::F32).into_dispatch()));
    cast(y, dtype)
}

fn cast<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// Scaled dot-product attention: query `[N, H, T, D]`, key and value `[N, H, S, D]` -> `[N, H, T, D]`.
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, visible: &Visible) -> Tensor<4> {
    let dim = query.dims()[3];
    let dtype = query.dtype();
    let scores = query.matmul(key.swap_dims(2, 3));
    let scores = cast(scores, DType::F32);
    let (hidden, causal) = match visible {
        Visible::All => (nothing_hidden(&scores), false),
        Visible::Causal => (nothing_hidden(&scores), true),
        Visible::CausalExcept(hidden) => (minus_infinity(hidden), true),
    };
    let scale = 1.0 / (dim as f64).sqrt();
    let shares = Dispatch::masked_softmax(scores.into_dispatch(), hidden.into_dispatch(), scale, causal);
    let shares = Tensor::<4>::from_dispatch(shares);
    cast(shares, dtype).matmul(value)
}

fn nothing_hidden(scores: &Tensor<4>) -> Tensor<2> {
    Tensor::zeros([1, 1], &scores.device())
}

fn minus_infinity(hidden: &Tensor<2, Bool>) -> Tensor<2> {
    let shape = hidden.dims();
    Tensor::zeros(shape, &hidden.device()).mask_fill(hidden.clone(), f32::NEG_INFINITY)
}

/// Sum of squares, `[n] -> [1]`: rows of a fixed length first, so that no number of threads changes the order of adding.
pub fn sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    let x = x.without_autodiff();
    let n = x.dims()[0];
    let rows = n / SUMMED;
    if rows < 2 {
        return x.square().sum();
    }
    let whole = x.clone().narrow(0, 0, rows * SUMMED).reshape([rows, SUMMED]).square().sum_dim(1).sum();
    if n == rows * SUMMED {
        return whole;
    }
    whole + x.narrow(0, rows * SUMMED, n - rows * SUMMED).square().sum()
}

/// One AdamW update of `[n]`: value, gradient, both moments -> the three anew.
pub fn adamw(
    value: Tensor<1>,
    gradient: Tensor<1>,
    [m, v]: [Tensor<1>; 2],
    u: &Update,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let gradient = gradient * u.clip;
    let m = m * u.beta1 + gradient.clone() * (1.0 - u.beta1);
    let v = v * u.beta2 + gradient.square() * (1.0 - u.beta2);
    let root = v.clone().sqrt() * u.correction + u.epsilon;
    (value * u.keep - m.clone() / root * u.rate, m, v)
}
