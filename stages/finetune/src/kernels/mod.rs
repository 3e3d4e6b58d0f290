//! Fused operators with derivatives of their own: besides matrix products, training spends most of its time in them.
//!
//! burn composes LayerNorm and softmax of many small operators when it differentiates, and its CPU backend computes erf
//! one element at a time. Here each is one pass over memory (`flex.rs`, on the CPU) or burn's own composition
//! (`composed.rs`, elsewhere). `benchmarks/training.py` measures the gain.

mod adamw;
mod attention;
mod cast;
mod composed;
mod flex;
mod ops;
#[cfg(test)]
mod tests;

use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor},
};

pub(crate) use self::{
    adamw::{AdamWUpdate, adamw},
    attention::{KeyMask, attention},
};
use self::{cast::cast, ops::TrainingOps};

/// Number of elements of a row of partial sums.
const SUM_ROW: usize = 4096;

/// Computes LayerNorm over the last dimension: `[R, W] -> [R, W]`, gain and shift `[W]`.
pub(crate) fn layer_norm(x: Tensor<2>, gain: Tensor<1>, shift: Tensor<1>, epsilon: f64) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_layer_norm(
        x.into_dispatch(),
        gain.into_dispatch(),
        shift.into_dispatch(),
        epsilon,
    ))
}

/// Computes GELU exactly, `x * Phi(x)`, with Phi to 1.5e-7 on the CPU; in f32 for any input type.
pub(crate) fn gelu(x: Tensor<2>) -> Tensor<2> {
    let dtype = x.dtype();
    let y = Tensor::from_dispatch(Dispatch::fused_gelu(cast(x, DType::F32).into_dispatch()));
    cast(y, dtype)
}

/// Computes the sum of squares, `[n] -> [1]`, by rows of a fixed length, so that the order of summation does not depend on the
/// number of threads.
pub(crate) fn sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    let x = x.without_autodiff();
    let n = x.dims()[0];
    let rows = n / SUM_ROW;
    if rows < 2 {
        return x.square().sum();
    }
    let whole = x.clone().narrow(0, 0, rows * SUM_ROW).reshape([rows, SUM_ROW]).square().sum_dim(1).sum();
    if n == rows * SUM_ROW {
        return whole;
    }
    whole + x.narrow(0, rows * SUM_ROW, n - rows * SUM_ROW).square().sum()
}
