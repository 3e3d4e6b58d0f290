//! The building blocks of open_clip's towers, on tokens as a matrix `[rows, width]`. One builder for every size.
//!
//! Weights keep open_clip's names and torch's layout (`[out, in]`, `Gemm` with `transB`). What can be folded into a
//! weight is folded here, in f64: LayerScale, a LayerNorm's affine part, padding of odd head sizes.

use std::collections::HashMap;

use super::{
    ExportError,
    graph::{Attr, DType, GraphBuilder, Value},
    linear::{Linear, Product, Quantised, transpose},
    weights::{Stored, WeightsWriter},
};
use crate::{
    checkpoint::{Activation, TensorReader},
    model::{Precision, padded_head_dim},
};

/// torch's default epsilon of LayerNorm, which open_clip uses throughout.
pub const LAYER_NORM_EPSILON: f32 = 1e-5;

/// `x * sigmoid(1.702 x)`: OpenAI's approximation of GELU.
const QUICK_GELU_FACTOR: f32 = 1.702;

/// Makes a tensor of the graph from those of the checkpoint.
pub type MakeTensor<'a> = &'a dyn Fn(&TensorReader) -> Result<Vec<f32>, ExportError>;

/// Names of query, key and value.
const PARTS: [&str; 3] = ["q", "k", "v"];

/// A graph being built from a checkpoint.
pub struct Tower<'a> {
    /// The graph.
    pub g: GraphBuilder,
    /// Source of weights.
    pub tensors: &'a TensorReader,
    /// Where they go.
    pub weights: &'a mut WeightsWriter,
    /// Precision of the export.
    pub precision: Precision,
    /// Type of activations, and of all weights but int8's linear layers.
    pub dtype: DType,
    /// Activation of the MLPs.
    pub activation: Activation,
    /// Activations that were quantised already.
    pub quantised: HashMap<Value, Quantised>,
}

/// The residual stream `[rows, W]` between two blocks.
pub enum Stream {
    /// Its value.
    Whole(Value),
    /// What is left to a fused addition and LayerNorm: `base + update + bias`.
    Pending {
        /// The stream before the block, `[rows, W]`.
        base: Value,
        /// The block's result without its bias, `[rows, W]`.
        update: Value,
        /// `[W]`.
        bias: Value,
    },
}

/// One residual block's parameters.
#[derive(Clone, Debug)]
pub struct Block {
    /// Prefix of its tensors, without the last dot.
    pub prefix: String,
    /// Width.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Width of the MLP.
    pub mlp_width: usize,
    /// Whether `ls_1` and `ls_2` exist.
    pub layer_scale: bool,
}

impl Block {
    /// Size of one head as the checkpoint has it.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Size of one head in the graph, see [`padded_head_dim`].
    #[must_use]
    pub fn padded(&self) -> usize {
        padded_head_dim(self.head_dim())
    }

    /// Factor on the attention scores: of the checkpoint's head size, whatever it was padded to.
    #[must_use]
    pub fn scale(&self) -> f32 {
        (1.0 / (self.head_dim() as f64).sqrt()) as f32
    }
}

impl<'a> Tower<'a> {
    /// An empty graph over a checkpoint.
    pub fn new(
        name: &str,
        tensors: &'a TensorReader,
        weights: &'a mut WeightsWriter,
        precision: Precision,
        activation: Activation,
    ) -> Self {
        Self {
            g: GraphBuilder::new(name),
            tensors,
            weights,
            precision,
            dtype: DType::of(precision),
            activation,
            quantised: HashMap::new(),
        }
    }

    /// Stores a weight under `name`, made by `make` unless an earlier graph stored it.
    pub fn stored(
        &mut self,
        name: &str,
        shape: &[usize],
        make: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<Stored, ExportError> {
        match self.weights.find(name) {
            Some(stored) => Ok(stored.clone()),
            None => self.weights.store(name, shape, &make(self.tensors)?),
        }
    }

    /// As [`Tower::stored`], put into the graph.
    pub fn made(
        &mut self,
        name: &str,
        shape: &[usize],
        make: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<Value, ExportError> {
        let stored = self.stored(name, shape, make)?;
        Ok(self.g.weight(name, self.dtype, &stored))
    }

    /// A tensor of the checkpoint as it is.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Value, ExportError> {
        self.made(name, shape, |t| Ok(t.get(name, shape)?))
    }

    /// LayerNorm over the last axis.
    pub fn layer_norm(&mut self, prefix: &str, x: &Value, width: usize) -> Result<Value, ExportError> {
        let scale = self.tensor(&format!("{prefix}.weight"), &[width])?;
        let bias = self.tensor(&format!("{prefix}.bias"), &[width])?;
        let attrs = [("axis", Attr::Int(-1)), ("epsilon", Attr::Float(LAYER_NORM_EPSILON))];
        Ok(self.g.op("LayerNormalization", &[x, &scale, &bias], &attrs))
    }

    /// Whether the graph is built of ONNX Runtime's fused operators, which are fast on a GPU and gain nothing on a CPU:
    /// fp16 is the GPU's precision. They are measured by `benchmarks/gpu.py`.
    #[must_use]
    pub fn is_fused(&self) -> bool {
        self.precision == Precision::Fp16
    }

    /// LayerNorm of the residual stream; returns it and the stream itself, both `[rows, W]`.
    pub fn norm_stream(
        &mut self,
        prefix: &str,
        stream: &Stream,
        width: usize,
    ) -> Result<(Value, Value), ExportError> {
        let (base, update, bias) = match stream {
            Stream::Whole(x) => return Ok((self.layer_norm(prefix, x, width)?, x.clone())),
            Stream::Pending { base, update, bias } => (base, update, bias),
        };
        let scale = self.tensor(&format!("{prefix}.weight"), &[width])?;
        let shift = self.tensor(&format!("{prefix}.bias"), &[width])?;
        let attrs = [("epsilon", Attr::Float(LAYER_NORM_EPSILON))];
        let (none, sum) = (GraphBuilder::none(), self.g.name("skip_sum"));
        let normed = self.g.microsoft_op(
            "SkipLayerNormalization",
            &[base, update, &scale, &shift, bias],
            &[&none, &none, &sum],
            &attrs,
        );
        Ok((normed, sum))
    }

    /// The stream after a block whose result is `update`.
    fn add_to_stream(&mut self, base: &Value, update: Product) -> Stream {
        match update {
            Product { value, bias: Some(bias) } => {
                Stream::Pending { base: base.clone(), update: value, bias }
            }
            Product { value, bias: None } => Stream::Whole(self.g.op("Add", &[base, &value], &[])),
        }
    }

    /// A linear layer of the checkpoint, `name.weight [out, in]` and `name.bias [out]`, times LayerScale if given.
    fn linear(
        &mut self,
        name: &str,
        x: &Value,
        sizes: [usize; 2],
        gamma: Option<&str>,
    ) -> Result<Product, ExportError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.product(
            x,
            &Linear { weight: &weight, bias: Some(&bias), sizes },
            |t| scaled_rows(t, &weight, &sizes, gamma),
            |t| scaled_rows(t, &bias, &sizes[..1], gamma),
        )
    }

    /// The packed projection of a self-attention and its bias `[3 * heads * padded]`, in the weights file: `[out, in]` rows,
    /// or `[in, out]` where the graph is fused.
    pub fn packed_qkv(&mut self, block: &Block) -> Result<(Stored, Stored), ExportError> {
        let attn = format!("{}.attn", block.prefix);
        let (w, rows) = (block.width, 3 * block.heads * block.padded());
        let (name, bias_name) = (format!("{attn}.in_proj_weight"), format!("{attn}.in_proj_bias"));
        let fused = self.is_fused();
        let shape = if fused { [w, rows] } else { [rows, w] };
        let weight = self.stored(&name, &shape, |t| {
            let weight = pad_head_rows(&t.get(&name, &[3 * w, w])?, block.head_dim(), block.padded(), w);
            Ok(if fused { transpose(&weight, [rows, w]) } else { weight })
        })?;
        let bias = self.stored(&bias_name, &[rows], |t| {
            Ok(pad_head_rows(&t.get(&bias_name, &[3 * w])?, block.head_dim(), block.padded(), 1))
        })?;
        Ok((weight, bias))
    }

    /// Query, key and value of a self-attention in one matrix, `[rows, 3 * heads * padded]`; not in int8.
    pub fn project_packed(&mut self, block: &Block, x: &Value) -> Result<Value, ExportError> {
        let (weight, bias) = self.packed_qkv(block)?;
        let weight = self.g.weight(&format!("{}.attn.in_proj_weight", block.prefix), self.dtype, &weight);
        let bias = self.g.weight(&format!("{}.attn.in_proj_bias", block.prefix), self.dtype, &bias);
        if self.is_fused() {
            let product = self.g.op("MatMul", &[x, &weight], &[]);
            return Ok(self.g.op("Add", &[&product, &bias], &[]));
        }
        Ok(self.g.op("Gemm", &[x, &weight, &bias], &[("transB", Attr::Int(1))]))
    }

    /// Query, key and value of a self-attention whose packed weight the decoder's fused graph shares, `[rows, heads * padded]`
    /// each.
    pub fn project_thirds(&mut self, block: &Block, x: &Value) -> Result<[Value; 3], ExportError> {
        let packed = self.project_packed(block, x)?;
        let attrs = [("axis", Attr::Int(-1)), ("num_outputs", Attr::Int(3))];
        Ok(self.g.op_with_outputs("Split", &[&packed], &attrs))
    }

    /// Query, key or value projection (`part` 0, 1, 2) of a self-attention: a third of the packed weight, not a copy. In
    /// int8 and where the graph is fused the thirds are stored apart.
    pub fn project_part(&mut self, block: &Block, x: &Value, part: usize) -> Result<Value, ExportError> {
        if self.precision == Precision::Int8 || self.is_fused() {
            return self.project_own_part(block, x, part);
        }
        let (weight, bias) = self.packed_qkv(block)?;
        let rows = block.heads * block.padded();
        let attn = format!("{}.attn.{}", block.prefix, PARTS[part]);
        let weight = self.g.weight(&format!("{attn}_weight"), self.dtype, &weight.rows(part * rows, rows));
        let bias = self.g.weight(&format!("{attn}_bias"), self.dtype, &bias.rows(part * rows, rows));
        Ok(self.g.op("Gemm", &[x, &weight, &bias], &[("transB", Attr::Int(1))]))
    }

    /// Query projection of a cross-attention. Its key and value projections belong to the image encoder's graph, where
    /// they are folded with a LayerNorm: storing the packed weight here would store them again.
    pub fn project_query(&mut self, block: &Block, x: &Value) -> Result<Value, ExportError> {
        self.project_own_part(block, x, 0)
    }

    fn project_own_part(&mut self, block: &Block, x: &Value, part: usize) -> Result<Value, ExportError> {
        let attn = format!("{}.attn", block.prefix);
        let (w, rows) = (block.width, block.heads * block.padded());
        let (weight, bias) =
            (format!("{attn}.{}_weight", PARTS[part]), format!("{attn}.{}_bias", PARTS[part]));
        let third = |name: &str, t: &TensorReader, columns: usize| {
            let shape = if columns == 1 { vec![3 * w] } else { vec![3 * w, columns] };
            let packed = t.get(&format!("{attn}.{name}"), &shape)?;
            let third = &packed[part * w * columns..(part + 1) * w * columns];
            Ok(pad_head_rows(third, block.head_dim(), block.padded(), columns))
        };
        // Where the graph is fused, biases of keys and values are folded away, see `attention_out`.
        let bias = (part == 0 || !self.is_fused()).then_some(bias.as_str());
        self.project(
            x,
            &Linear { weight: &weight, bias, sizes: [rows, w] },
            |t| third("in_proj_weight", t, w),
            |t| third("in_proj_bias", t, 1),
        )
    }

    /// Output projection of an attention and the residual: `residual + ls_1(out_proj(x))`.
    ///
    /// Fused graphs leave out two biases, exactly: one of the keys adds the same to all scores of a query, which softmax
    /// ignores, and one of the values, `value_bias [W]` if it is given, passes through the attention unchanged, so that
    /// `out_proj` of it is part of the output's bias.
    pub fn attention_out(
        &mut self,
        block: &Block,
        x: &Value,
        residual: &Value,
        value_bias: Option<MakeTensor<'_>>,
    ) -> Result<Stream, ExportError> {
        let name = format!("{}.attn.out_proj", block.prefix);
        let gamma = block.layer_scale.then(|| format!("{}.ls_1.gamma", block.prefix));
        let (w, inner) = (block.width, block.heads * block.padded());
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let fused = self.is_fused();
        let out = self.product(
            x,
            &Linear { weight: &weight, bias: Some(&bias), sizes: [w, inner] },
            |t| {
                let plain = scaled_rows(t, &weight, &[w, w], gamma.as_deref())?;
                Ok(pad_head_columns(&plain, block.head_dim(), block.padded()))
            },
            |t| {
                let plain = scaled_rows(t, &bias, &[w], gamma.as_deref())?;
                let Some(value_bias) = value_bias.filter(|_| fused) else { return Ok(plain) };
                let rows = scaled_rows(t, &weight, &[w, w], gamma.as_deref())?;
                Ok(add_product(&plain, &rows, &value_bias(t)?))
            },
        )?;
        Ok(self.add_to_stream(residual, out))
    }

    /// `x + ls_2(mlp(ln_2(x)))`.
    pub fn mlp(&mut self, block: &Block, stream: &Stream) -> Result<Stream, ExportError> {
        let p = &block.prefix;
        let (normed, x) = self.norm_stream(&format!("{p}.ln_2"), stream, block.width)?;
        let hidden = self.linear(&format!("{p}.mlp.c_fc"), &normed, [block.mlp_width, block.width], None)?;
        let active = self.activate(hidden);
        let gamma = block.layer_scale.then(|| format!("{p}.ls_2.gamma"));
        let out = self.linear(
            &format!("{p}.mlp.c_proj"),
            &active,
            [block.width, block.mlp_width],
            gamma.as_deref(),
        )?;
        Ok(self.add_to_stream(&x, out))
    }

    /// The MLP's activation of a product with its bias.
    fn activate(&mut self, hidden: Product) -> Value {
        if self.activation == Activation::Gelu
            && let Product { value, bias: Some(bias) } = &hidden
        {
            return self.g.microsoft_op("BiasGelu", &[value, bias], &[], &[]);
        }
        let x = self.with_bias(hidden);
        match self.activation {
            Activation::Gelu => self.g.op("Gelu", &[&x], &[]),
            Activation::QuickGelu if self.is_fused() => {
                self.g.microsoft_op("QuickGelu", &[&x], &[], &[("alpha", Attr::Float(QUICK_GELU_FACTOR))])
            }
            Activation::QuickGelu => {
                let factor = self.g.real(self.dtype, QUICK_GELU_FACTOR);
                let scaled = self.g.op("Mul", &[&x, &factor], &[]);
                let gate = self.g.op("Sigmoid", &[&scaled], &[]);
                self.g.op("Mul", &[&x, &gate], &[])
            }
        }
    }

    /// Attention: query `[N, T, H*D]`, key and value `[N, S, H*D]` -> `[N, T, H*D]`. ONNX's operator, or ONNX Runtime's
    /// where the graph is fused and there is no mask.
    pub fn attention(&mut self, block: &Block, qkv: [&Value; 3], mask: Option<&Value>) -> Value {
        let heads = block.heads as i64;
        if mask.is_none() && self.is_fused() {
            let attrs = [("num_heads", Attr::Int(heads)), ("scale", Attr::Float(block.scale()))];
            return self.g.microsoft_op("MultiHeadAttention", &qkv, &[], &attrs);
        }
        let attrs = [
            ("q_num_heads", Attr::Int(heads)),
            ("kv_num_heads", Attr::Int(heads)),
            ("scale", Attr::Float(block.scale())),
        ];
        match mask {
            Some(mask) => self.g.op("Attention", &[qkv[0], qkv[1], qkv[2], mask], &attrs),
            None => self.g.op("Attention", &qkv, &attrs),
        }
    }

    /// Rows of tokens as a batch: `[N * tokens, width] -> [N, tokens, width]`.
    pub fn as_batch(&mut self, x: &Value, tokens: usize, width: usize) -> Value {
        let shape = self.g.ints(&[-1, tokens as i64, width as i64]);
        self.g.op("Reshape", &[x, &shape], &[])
    }

    /// A batch of tokens as rows: `[N, T, width] -> [N * T, width]`.
    pub fn as_rows(&mut self, x: &Value, width: usize) -> Value {
        let shape = self.g.ints(&[-1, width as i64]);
        self.g.op("Reshape", &[x, &shape], &[])
    }

    /// Divides each row by its L2 norm (at least 1e-12, as torch does); f32 in and out.
    pub fn l2_normalise(&mut self, x: &Value, output: &Value) {
        let axis = self.g.ints(&[-1]);
        let norm = self.g.op("ReduceL2", &[x, &axis], &[("keepdims", Attr::Int(1))]);
        let least = self.g.real(DType::F32, 1e-12);
        let norm = self.g.op("Max", &[&norm, &least], &[]);
        self.g.op_into("Div", &[x, &norm], output, &[]);
    }

    /// To f32, if it is not.
    pub fn cast_to_f32(&mut self, x: &Value) -> Value {
        match self.dtype {
            DType::F32 => x.clone(),
            _ => self.g.op("Cast", &[x], &[("to", Attr::Int(DType::F32.code().into()))]),
        }
    }
}

/// A tensor with row `i` multiplied by `gamma[i]`: LayerScale folded into the layer before it.
fn scaled_rows(
    tensors: &TensorReader,
    name: &str,
    shape: &[usize],
    gamma: Option<&str>,
) -> Result<Vec<f32>, ExportError> {
    let mut values = tensors.get(name, shape)?;
    if let Some(gamma) = gamma {
        let gamma = tensors.get(gamma, &shape[..1])?;
        let row = values.len() / shape[0];
        for (values, g) in values.chunks_exact_mut(row).zip(gamma) {
            values.iter_mut().for_each(|v| *v = (f64::from(*v) * f64::from(g)) as f32);
        }
    }
    Ok(values)
}

/// `vector + matrix @ x` in f64; `matrix` is `[vector.len(), x.len()]`, row-major.
pub fn add_product(vector: &[f32], matrix: &[f32], x: &[f32]) -> Vec<f32> {
    let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
    vector
        .iter()
        .zip(matrix.chunks_exact(x.len()))
        .map(|(v, row)| (f64::from(*v) + dot(row)) as f32)
        .collect()
}

/// Appends zero rows to every head of a projection: `[k * heads * dim, columns] -> [k * heads * padded, columns]`.
/// Zero queries and keys add nothing to a score, zero values nothing to an output.
pub fn pad_head_rows(values: &[f32], dim: usize, padded: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len() / dim * padded);
    for head in values.chunks_exact(dim * columns) {
        out.extend_from_slice(head);
        out.resize(out.len() + (padded - dim) * columns, 0.0);
    }
    out
}

/// The same for the input side of an output projection: `[rows, heads * dim] -> [rows, heads * padded]`.
fn pad_head_columns(values: &[f32], dim: usize, padded: usize) -> Vec<f32> {
    pad_head_rows(values, dim, padded, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_padded_with_zeros() {
        let rows = pad_head_rows(&[1.0, 2.0, 3.0, 4.0], 1, 2, 2);
        assert_eq!(rows, [1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0]);
        assert_eq!(pad_head_columns(&[1.0, 2.0, 3.0, 4.0], 2, 3), [1.0, 2.0, 0.0, 3.0, 4.0, 0.0]);
    }
}
