//! Layers shared by all towers. Tokens are rows `[N * T, W]`; only attention reshapes them to `[N, H, T, D]`.

use burn::tensor::{DType, Tensor, module::linear};
use recaption_onnx::checkpoint::Activation;

use super::parameters::Parameters;
use crate::kernels::{self, KeyMask};

/// torch's default epsilon of LayerNorm, which open_clip uses throughout.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// One residual block of a transformer.
pub(super) struct Block<'a> {
    /// Parameters of the model.
    pub(super) parameters: &'a Parameters,
    /// Prefix of the block's parameter names, without the last dot.
    pub(super) prefix: String,
    /// Number of attention heads.
    pub(super) heads: usize,
    /// Activation of the MLP.
    pub(super) activation: Activation,
    /// Whether `ls_1` and `ls_2` exist.
    pub(super) layer_scale: bool,
}

/// Computes `x @ weight.T + bias`, `[R, in] -> [R, out]`; `weight` is `[out, in]` as in torch.
pub(super) fn project(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let bias = bias.map(|b| if b.dtype() == x.dtype() { b } else { b.cast(x.dtype()) });
    linear(x, weight.transpose(), bias)
}

/// Computes LayerNorm over the last dimension with torch's epsilon in f32 for any input type, `[R, W] -> [R, W]`.
pub(super) fn layer_norm(parameters: &Parameters, name: &str, x: Tensor<2>) -> Tensor<2> {
    layer_norm_with(parameters, name, x, LAYER_NORM_EPSILON)
}

/// Computes the same with another epsilon.
pub(super) fn layer_norm_with(parameters: &Parameters, name: &str, x: Tensor<2>, epsilon: f64) -> Tensor<2> {
    let (gain, shift) =
        (parameters.vector(&format!("{name}.weight")), parameters.vector(&format!("{name}.bias")));
    let dtype = x.dtype();
    let x = if dtype == DType::F32 { x } else { x.cast(DType::F32) };
    let y = kernels::layer_norm(x, gain, shift, epsilon);
    if dtype == DType::F32 { y } else { y.cast(dtype) }
}

/// Splits rows into heads, `[N * T, H * D] -> [N, H, T, D]`.
fn split_heads(x: Tensor<2>, batch: usize, heads: usize) -> Tensor<4> {
    let [rows, width] = x.dims();
    x.reshape([batch, rows / batch, heads, width / heads]).swap_dims(1, 2)
}

/// Computes multi-head attention: query rows `[N * T, H * D]`, key and value rows `[N * S, H * D]`, to `[N * T, H * D]`.
pub(super) fn attend(qkv: [Tensor<2>; 3], batch: usize, heads: usize, mask: &KeyMask) -> Tensor<2> {
    let [rows, width] = qkv[0].dims();
    let [query, key, value] = qkv.map(|x| split_heads(x, batch, heads));
    let out = kernels::attention(query, key, value, mask);
    out.swap_dims(1, 2).reshape([rows, width])
}

/// Computes query, key and value projections; the weights are one packed `[3 W, W]` or three.
pub(super) fn attention_projections(
    parameters: &Parameters,
    prefix: &str,
    [query, key]: [Tensor<2>; 2],
) -> [Tensor<2>; 3] {
    let bias = parameters.vector(&format!("{prefix}.in_proj_bias"));
    let width = bias.dims()[0] / 3;
    let packed = format!("{prefix}.in_proj_weight");
    let weight = |part: usize, name: &str| match parameters.has(&packed) {
        true => parameters.matrix(&packed).narrow(0, part * width, width),
        false => parameters.matrix(&format!("{prefix}.{name}_proj_weight")),
    };
    let bias = |part: usize| Some(bias.clone().narrow(0, part * width, width));
    [
        project(query, weight(0, "q"), bias(0)),
        project(key.clone(), weight(1, "k"), bias(1)),
        project(key, weight(2, "v"), bias(2)),
    ]
}

impl Block<'_> {
    /// Returns the full name of one of the block's parameters.
    fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Computes a projection with bias.
    fn linear(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let weight = self.parameters.matrix(&self.named(&format!("{name}.weight")));
        project(x, weight, Some(self.parameters.vector(&self.named(&format!("{name}.bias")))))
    }

    /// Applies layer scale, if the block has one.
    fn scaled(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        if !self.layer_scale {
            return x;
        }
        let gamma = self.parameters.lower(self.parameters.vector(&self.named(name)));
        x * gamma.unsqueeze()
    }

    /// Computes `x + ls_1(attn(ln_1(x)))`, then the MLP, on `x` `[N * T, W]`.
    pub(super) fn self_attention(&self, x: Tensor<2>, batch: usize, mask: &KeyMask) -> Tensor<2> {
        let normed = layer_norm(self.parameters, &self.named("ln_1"), x.clone());
        self.attention(x, [normed.clone(), normed], batch, mask)
    }

    /// Computes the same with keys and values from `context` `[N * S, W]`.
    pub(super) fn cross_attention(&self, x: Tensor<2>, context: Tensor<2>, batch: usize) -> Tensor<2> {
        let normed = layer_norm(self.parameters, &self.named("ln_1"), x.clone());
        let context = layer_norm(self.parameters, &self.named("ln_1_kv"), context);
        self.attention(x, [normed, context], batch, &KeyMask::None)
    }

    fn attention(&self, x: Tensor<2>, qk: [Tensor<2>; 2], batch: usize, mask: &KeyMask) -> Tensor<2> {
        let qkv = attention_projections(self.parameters, &self.named("attn"), qk);
        let out = attend(qkv, batch, self.heads, mask);
        let x = x + self.scaled("ls_1.gamma", self.linear("attn.out_proj", out));
        self.mlp(x)
    }

    /// Computes `x + ls_2(mlp(ln_2(x)))`.
    fn mlp(&self, x: Tensor<2>) -> Tensor<2> {
        let normed = layer_norm(self.parameters, &self.named("ln_2"), x.clone());
        let hidden = self.linear("mlp.c_fc", normed);
        let active = match self.activation {
            Activation::Gelu => kernels::gelu(hidden),
            Activation::GeluTanh => burn::tensor::activation::gelu_approximate(hidden),
            Activation::QuickGelu => hidden.clone() * burn::tensor::activation::sigmoid(hidden * 1.702),
        };
        x + self.scaled("ls_2.gamma", self.linear("mlp.c_proj", active))
    }
}

/// Divides rows by their L2 norm, at least 1e-12 as in torch, in f32: `[N, E] -> [N, E]`.
pub(super) fn normalise(x: Tensor<2>) -> Tensor<2> {
    let x = if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) };
    let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / norm
}
