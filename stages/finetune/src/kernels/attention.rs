//! Masked scaled dot-product attention.

use burn::{
    backend::Dispatch,
    tensor::{Bool, DType, Tensor},
};

use super::{cast::cast, ops::TrainingOps};

/// Keys that a query may not attend to.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one lives per forward pass, and a tensor is a handle")]
pub(crate) enum KeyMask {
    /// None: every query attends to every key.
    None,
    /// Keys behind the query.
    Causal,
    /// Those that are hidden: `[N, S]`, true where a key is hidden.
    Except(Tensor<2, Bool>),
    /// Keys behind the query, and those that are hidden: `[N, S]`, true where a key is hidden.
    CausalExcept(Tensor<2, Bool>),
}

/// Computes scaled dot-product attention: query `[N, H, T, D]`, key and value `[N, H, S, D]` to `[N, H, T, D]`.
pub(crate) fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, mask: &KeyMask) -> Tensor<4> {
    let dim = query.dims()[3];
    let dtype = query.dtype();
    let scores = query.matmul(key.swap_dims(2, 3));
    let scores = cast(scores, DType::F32);
    let (hidden, causal) = match mask {
        KeyMask::None => (no_hidden_keys(&scores), false),
        KeyMask::Causal => (no_hidden_keys(&scores), true),
        KeyMask::Except(hidden) => (additive_mask(hidden), false),
        KeyMask::CausalExcept(hidden) => (additive_mask(hidden), true),
    };
    let scale = 1.0 / (dim as f64).sqrt();
    let shares = Dispatch::masked_softmax(scores.into_dispatch(), hidden.into_dispatch(), scale, causal);
    let shares = Tensor::<4>::from_dispatch(shares);
    cast(shares, dtype).matmul(value)
}

/// Returns the additive mask `[1, 1]` that hides nothing.
fn no_hidden_keys(scores: &Tensor<4>) -> Tensor<2> {
    Tensor::zeros([1, 1], &scores.device())
}

/// Returns minus infinity where a key is hidden, else 0: `[N, S]`.
fn additive_mask(hidden: &Tensor<2, Bool>) -> Tensor<2> {
    let shape = hidden.dims();
    Tensor::zeros(shape, &hidden.device()).mask_fill(hidden.clone(), f32::NEG_INFINITY)
}
