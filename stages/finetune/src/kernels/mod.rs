//! The operators that training spends its time in.

use burn::tensor::{Tensor, activation};

use crate::{model::Visible, optim::Update};

/// LayerNorm over the last dimension. `[R, W] -> [R, W]`.
pub fn layer_norm(x: Tensor<2>, gain: Tensor<1>, shift: Tensor<1>, epsilon: f64) -> Tensor<2> {
    burn::tensor::module::layer_norm(x, gain, Some(shift), epsilon)
}

/// `x * Phi(x)`, with the exact erf.
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    activation::gelu(x)
}

/// Scaled dot-product attention: query `[N, H, T, D]`, key and value `[N, H, S, D]` -> `[N, H, T, D]`.
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, visible: &Visible) -> Tensor<4> {
    let [batch, heads, rows, dim] = query.dims();
    let columns = key.dims()[2];
    let device = query.device();
    let scores = query.matmul(key.swap_dims(2, 3)) * (1.0 / (dim as f64).sqrt());
    let causal = || Tensor::<2, burn::tensor::Bool>::tril_mask([rows, columns], 0, &device).unsqueeze::<4>();
    let scores = match visible {
        Visible::All => scores,
        Visible::Causal => {
            scores.mask_fill(causal().expand([batch, heads, rows, columns]), f32::NEG_INFINITY)
        }
        Visible::CausalExcept(hidden) => {
            let hidden = hidden.clone().unsqueeze_dims::<4>(&[1, 1]).expand([batch, heads, rows, columns]);
            let mask = causal().expand([batch, heads, rows, columns]).bool_or(hidden);
            scores.mask_fill(mask, f32::NEG_INFINITY)
        }
    };
    activation::softmax(scores, 3).matmul(value)
}

/// Sum of squares, `[n] -> [1]`.
pub fn sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    x.square().sum()
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
