//! The layers that all towers are made of. Tokens travel as rows `[N * T, W]`; only attention looks at `[N, H, T, D]`.

use burn::tensor::{Bool, DType, Tensor, module::linear};
use recaption_onnx::checkpoint::Activation;

use super::parameters::Parameters;
use crate::kernels;

/// torch's default epsilon of LayerNorm, which open_clip uses throughout.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// One residual block, by the prefix of its parameters.
pub struct Block<'a> {
    /// Where its parameters are.
    pub parameters: &'a Parameters,
    /// Prefix of their names, without the last dot.
    pub prefix: String,
    /// Attention heads.
    pub heads: usize,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Whether `ls_1` and `ls_2` exist.
    pub layer_scale: bool,
}

/// Which keys a query may see.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "one lives per forward pass, and a tensor is a handle")]
pub enum Visible {
    /// All.
    All,
    /// Itself and what came before.
    Causal,
    /// What came before, unless the key is hidden: truth `[N, T]` where a key is hidden.
    CausalExcept(Tensor<2, Bool>),
}

/// `x @ weight.T + bias`; `weight` is `[out, in]`, as torch has it. `[R, in] -> [R, out]`.
pub fn project(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let bias = bias.map(|b| if b.dtype() == x.dtype() { b } else { b.cast(x.dtype()) });
    linear(x, weight.transpose(), bias)
}

/// LayerNorm over the last dimension, in single whatever comes in. `[R, W] -> [R, W]`.
pub fn layer_norm(parameters: &Parameters, name: &str, x: Tensor<2>) -> Tensor<2> {
    let (gain, shift) =
        (parameters.vector(&format!("{name}.weight")), parameters.vector(&format!("{name}.bias")));
    let dtype = x.dtype();
    let x = if dtype == DType::F32 { x } else { x.cast(DType::F32) };
    let y = kernels::layer_norm(x, gain, shift, LAYER_NORM_EPSILON);
    if dtype == DType::F32 { y } else { y.cast(dtype) }
}

/// Rows as heads: `[N * T, H * D] -> [N, H, T, D]`.
fn split_heads(x: Tensor<2>, batch: usize, heads: usize) -> Tensor<4> {
    let [rows, width] = x.dims();
    x.reshape([batch, rows / batch, heads, width / heads]).swap_dims(1, 2)
}

/// Query, key and value rows `[N * T, H * D]`, `[N * S, H * D]` -> `[N * T, H * D]`.
pub fn attend(qkv: [Tensor<2>; 3], batch: usize, heads: usize, visible: &Visible) -> Tensor<2> {
    let [rows, width] = qkv[0].dims();
    let [query, key, value] = qkv.map(|x| split_heads(x, batch, heads));
    let out = kernels::attention(query, key, value, visible);
    out.swap_dims(1, 2).reshape([rows, width])
}

/// The three projections of an attention, of which the weights may be packed in one `[3 W, W]` or kept apart.
pub fn attention_projections(
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
    fn named(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// `[out, in]` projection with its bias.
    fn linear(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let weight = self.parameters.matrix(&self.named(&format!("{name}.weight")));
        project(x, weight, Some(self.parameters.vector(&self.named(&format!("{name}.bias")))))
    }

    fn scaled(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        if !self.layer_scale {
            return x;
        }
        let gamma = self.parameters.lower(self.parameters.vector(&self.named(name)));
        x * gamma.unsqueeze()
    }

    /// `x + ls_1(attn(ln_1(x)))`, then the MLP. `x` is `[N * T, W]`.
    pub fn self_attention(&self, x: Tensor<2>, batch: usize, visible: &Visible) -> Tensor<2> {
        let normed = layer_norm(self.parameters, &self.named("ln_1"), x.clone());
        self.attention(x, [normed.clone(), normed], batch, visible)
    }

    /// The same with keys and values from `context` `[N * S, W]`.
    pub fn cross_attention(&self, x: Tensor<2>, context: Tensor<2>, batch: usize) -> Tensor<2> {
        let normed = layer_norm(self.parameters, &self.named("ln_1"), x.clone());
        let context = layer_norm(self.parameters, &self.named("ln_1_kv"), context);
        self.attention(x, [normed, context], batch, &Visible::All)
    }

    fn attention(&self, x: Tensor<2>, qk: [Tensor<2>; 2], batch: usize, visible: &Visible) -> Tensor<2> {
        let qkv = attention_projections(self.parameters, &self.named("attn"), qk);
        let out = attend(qkv, batch, self.heads, visible);
        let x = x + self.scaled("ls_1.gamma", self.linear("attn.out_proj", out));
        self.mlp(x)
    }

    /// `x + ls_2(mlp(ln_2(x)))`.
    fn mlp(&self, x: Tensor<2>) -> Tensor<2> {
        let normed = layer_norm(self.parameters, &self.named("ln_2"), x.clone());
        let hidden = self.linear("mlp.c_fc", normed);
        let active = match self.activation {
            Activation::Gelu => kernels::gelu(hidden),
            Activation::QuickGelu => hidden.clone() * burn::tensor::activation::sigmoid(hidden * 1.702),
        };
        x + self.scaled("ls_2.gamma", self.linear("mlp.c_proj", active))
    }
}
