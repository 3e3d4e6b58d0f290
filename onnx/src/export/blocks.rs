//! The residual blocks of open_clip's towers, on tokens as a matrix `[rows, width]`. One builder for every size.
//!
//! LayerScale, biases of fused attentions and the padding of odd head sizes are folded into weights, see `fold`.

use super::{
    error::ExportError,
    fold::{add_product, pad_head_columns, pad_head_rows, scaled_rows, transpose},
    graph::{Attr, GraphBuilder, Value},
    linear::{Linear, LinearOutput},
    tower::Tower,
    weights::Stored,
};
use crate::{
    checkpoint::{Activation, TensorReader},
    model::{Precision, padded_head_dim},
};

/// `x * sigmoid(1.702 x)`: OpenAI's approximation of GELU.
const QUICK_GELU_FACTOR: f32 = 1.702;

/// Tokens up to which ONNX's attention is the faster one on a CPU. ONNX Runtime's own does not write down the scores of all pairs: it
/// takes 1.2 to 1.4 times as long for 50 to 256 tokens, and 0.6 to 0.9 times as long for 577 and 729 (`benchmarks/operators.py`).
const MAX_TOKENS_OF_PLAIN_ATTENTION: usize = 256;

/// Computes a weight from tensors of the checkpoint.
pub(super) type MakeTensor<'a> = &'a dyn Fn(&TensorReader) -> Result<Vec<f32>, ExportError>;

/// Names of query, key and value.
const PARTS: [&str; 3] = ["q", "k", "v"];

/// The residual stream `[rows, W]` between two blocks.
pub(super) enum Stream {
    /// The stream itself.
    Whole(Value),
    /// The sum `base + update + bias`, left to a fused addition and LayerNorm.
    Pending {
        /// The stream before the block, `[rows, W]`.
        base: Value,
        /// The block's result without its bias, `[rows, W]`.
        update: Value,
        /// `[W]`.
        bias: Value,
    },
}

/// Names and sizes of a residual block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Prefix of its tensors, without the last dot.
    pub(super) prefix: String,
    /// Width.
    pub(super) width: usize,
    /// Heads.
    pub(super) heads: usize,
    /// Width of the MLP.
    pub(super) mlp_width: usize,
    /// Whether `ls_1` and `ls_2` exist.
    pub(super) layer_scale: bool,
}

impl Block {
    /// Returns the size of one head in the checkpoint.
    #[must_use]
    pub(super) fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Returns the size of one head in the graph, see [`padded_head_dim`].
    #[must_use]
    pub(super) fn padded(&self) -> usize {
        padded_head_dim(self.head_dim())
    }

    /// Returns the factor on the attention scores, which depends on the checkpoint's head size and not on padding.
    #[must_use]
    pub(super) fn scale(&self) -> f32 {
        (1.0 / (self.head_dim() as f64).sqrt()) as f32
    }
}

/// Returns the biases of query, key and value of a self-attention, `[3 W]`. An EVA's keys have none.
pub(super) fn packed_bias(t: &TensorReader, attn: &str, width: usize) -> Result<Vec<f32>, ExportError> {
    let (packed, query) = (format!("{attn}.in_proj_bias"), format!("{attn}.q_bias"));
    if !t.contains(&query) {
        return Ok(t.get(&packed, &[3 * width])?);
    }
    let value = t.get(&format!("{attn}.v_bias"), &[width])?;
    Ok([t.get(&query, &[width])?, vec![0.0; width], value].concat())
}

impl Tower<'_> {
    /// Adds a LayerNorm over the last axis.
    pub(super) fn layer_norm(&mut self, prefix: &str, x: &Value, width: usize) -> Result<Value, ExportError> {
        let scale = self.checkpoint_weight(&format!("{prefix}.weight"), &[width])?;
        let bias = self.checkpoint_weight(&format!("{prefix}.bias"), &[width])?;
        let attrs = [("axis", Attr::Int(-1)), ("epsilon", Attr::Float(self.epsilon))];
        Ok(self.g.op("LayerNormalization", &[x, &scale, &bias], &attrs))
    }

    /// Adds a LayerNorm of the residual stream; returns its output and the stream itself, both `[rows, W]`.
    pub(super) fn norm_stream(
        &mut self,
        prefix: &str,
        stream: &Stream,
        width: usize,
    ) -> Result<(Value, Value), ExportError> {
        let (base, update, bias) = match stream {
            Stream::Whole(x) => return Ok((self.layer_norm(prefix, x, width)?, x.clone())),
            Stream::Pending { base, update, bias } => (base, update, bias),
        };
        let scale = self.checkpoint_weight(&format!("{prefix}.weight"), &[width])?;
        let shift = self.checkpoint_weight(&format!("{prefix}.bias"), &[width])?;
        let attrs = [("epsilon", Attr::Float(self.epsilon))];
        let (none, sum) = (GraphBuilder::none(), self.g.name("skip_sum"));
        let normed = self.g.microsoft_op(
            "SkipLayerNormalization",
            &[base, update, &scale, &shift, bias],
            &[&none, &none, &sum],
            &attrs,
        );
        Ok((normed, sum))
    }

    /// Returns the stream after a block with output `update`.
    pub(super) fn add_to_stream(&mut self, base: &Value, update: LinearOutput) -> Stream {
        match update {
            LinearOutput { value, bias: Some(bias) } => {
                Stream::Pending { base: base.clone(), update: value, bias }
            }
            LinearOutput { value, bias: None } => Stream::Whole(self.g.op("Add", &[base, &value], &[])),
        }
    }

    /// Returns the residual stream itself, `[rows, W]`.
    pub(super) fn whole_stream(&mut self, stream: &Stream) -> Value {
        match stream {
            Stream::Whole(x) => x.clone(),
            Stream::Pending { base, update, bias } => {
                let sum = self.g.op("Add", &[base, update], &[]);
                self.g.op("Add", &[&sum, bias], &[])
            }
        }
    }

    /// Adds a linear layer of the checkpoint, `name.weight [out, in]` and `name.bias [out]`, times LayerScale if given.
    pub(super) fn linear(
        &mut self,
        name: &str,
        x: &Value,
        sizes: [usize; 2],
        gamma: Option<&str>,
    ) -> Result<LinearOutput, ExportError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.product(
            x,
            &Linear { weight: &weight, bias: Some(&bias), sizes },
            |t| scaled_rows(t, &weight, &sizes, gamma),
            |t| scaled_rows(t, &bias, &sizes[..1], gamma),
        )
    }

    /// Stores the packed projection of a self-attention and its bias `[3 * heads * padded]`, in the weights file: `[out, in]` rows,
    /// or `[in, out]` where the graph is fused.
    pub(super) fn packed_qkv(&mut self, block: &Block) -> Result<(Stored, Stored), ExportError> {
        let attn = format!("{}.attn", block.prefix);
        let (w, rows) = (block.width, 3 * block.heads * block.padded());
        let (name, bias_name) = (format!("{attn}.in_proj_weight"), format!("{attn}.in_proj_bias"));
        let fused = self.is_fused();
        let shape = if fused { [w, rows] } else { [rows, w] };
        let weight = self.store_weight(&name, &shape, |t| {
            let weight = pad_head_rows(&t.get(&name, &[3 * w, w])?, block.head_dim(), block.padded(), w);
            Ok(if fused { transpose(&weight, [rows, w]) } else { weight })
        })?;
        let bias = self.store_weight(&bias_name, &[rows], |t| {
            Ok(pad_head_rows(&packed_bias(t, &attn, w)?, block.head_dim(), block.padded(), 1))
        })?;
        Ok((weight, bias))
    }

    /// Projects to query, key and value of a self-attention in one matrix, `[rows, 3 * heads * padded]`; not in int8.
    pub(super) fn project_packed(&mut self, block: &Block, x: &Value) -> Result<Value, ExportError> {
        let (weight, bias) = self.packed_qkv(block)?;
        let weight = self.g.weight(&format!("{}.attn.in_proj_weight", block.prefix), self.dtype, &weight);
        let bias = self.g.weight(&format!("{}.attn.in_proj_bias", block.prefix), self.dtype, &bias);
        if self.is_fused() {
            let product = self.g.op("MatMul", &[x, &weight], &[]);
            return Ok(self.g.op("Add", &[&product, &bias], &[]));
        }
        Ok(self.g.op("Gemm", &[x, &weight, &bias], &[("transB", Attr::Int(1))]))
    }

    /// Projects to query, key and value of a self-attention, `[rows, heads * padded]` each, with the packed weight that the
    /// decoder's fused graph shares.
    pub(super) fn project_thirds(&mut self, block: &Block, x: &Value) -> Result<[Value; 3], ExportError> {
        let packed = self.project_packed(block, x)?;
        let attrs = [("axis", Attr::Int(-1)), ("num_outputs", Attr::Int(3))];
        Ok(self.g.op_with_outputs("Split", &[&packed], &attrs))
    }

    /// Projects to query, key or value (`part` 0, 1, 2) of a self-attention, with a third of the packed weight. In int8 and in
    /// fused graphs the thirds are stored separately.
    pub(super) fn project_part(
        &mut self,
        block: &Block,
        x: &Value,
        part: usize,
    ) -> Result<Value, ExportError> {
        if self.precision == Precision::Int8 || self.is_fused() {
            return self.project_separate_part(block, x, part);
        }
        let (weight, bias) = self.packed_qkv(block)?;
        let rows = block.heads * block.padded();
        let attn = format!("{}.attn.{}", block.prefix, PARTS[part]);
        let weight = self.g.weight(&format!("{attn}_weight"), self.dtype, &weight.rows(part * rows, rows));
        let bias = self.g.weight(&format!("{attn}_bias"), self.dtype, &bias.rows(part * rows, rows));
        Ok(self.g.op("Gemm", &[x, &weight, &bias], &[("transB", Attr::Int(1))]))
    }

    /// Projects to the query of a cross-attention. Its key and value projections are in the image encoder's graph, folded with
    /// a LayerNorm; the packed weight is not stored.
    pub(super) fn project_query(&mut self, block: &Block, x: &Value) -> Result<Value, ExportError> {
        self.project_separate_part(block, x, 0)
    }

    fn project_separate_part(&mut self, block: &Block, x: &Value, part: usize) -> Result<Value, ExportError> {
        let attn = format!("{}.attn", block.prefix);
        let (w, rows) = (block.width, block.heads * block.padded());
        let (weight, bias) =
            (format!("{attn}.{}_weight", PARTS[part]), format!("{attn}.{}_bias", PARTS[part]));
        let third = |packed: &[f32], columns: usize| {
            let third = &packed[part * w * columns..(part + 1) * w * columns];
            pad_head_rows(third, block.head_dim(), block.padded(), columns)
        };
        // In fused graphs biases of keys and values are folded away, see `attention_out`.
        let bias = (part == 0 || !self.is_fused()).then_some(bias.as_str());
        self.project(
            x,
            &Linear { weight: &weight, bias, sizes: [rows, w] },
            |t| Ok(third(&t.get(&format!("{attn}.in_proj_weight"), &[3 * w, w])?, w)),
            |t| Ok(third(&packed_bias(t, &attn, w)?, 1)),
        )
    }

    /// Adds the output projection of an attention and the residual: `residual + ls_1(out_proj(x))`.
    ///
    /// Fused graphs omit two biases without changing the result: that of the keys adds the same to all scores of a query, which
    /// softmax ignores, and that of the values, `value_bias [W]`, passes through the attention unchanged, so that `out_proj` of
    /// it is part of the output's bias.
    pub(super) fn attention_out(
        &mut self,
        block: &Block,
        x: &Value,
        residual: &Value,
        value_bias: Option<MakeTensor<'_>>,
    ) -> Result<Stream, ExportError> {
        let out = self.attention_product(block, x, value_bias)?;
        Ok(self.add_to_stream(residual, out))
    }

    /// Adds the output projection alone: `ls_1(out_proj(x))`.
    pub(super) fn attention_product(
        &mut self,
        block: &Block,
        x: &Value,
        value_bias: Option<MakeTensor<'_>>,
    ) -> Result<LinearOutput, ExportError> {
        let name = format!("{}.attn.out_proj", block.prefix);
        let gamma = block.layer_scale.then(|| format!("{}.ls_1.gamma", block.prefix));
        let (w, inner) = (block.width, block.heads * block.padded());
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let fused = self.is_fused();
        self.product(
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
        )
    }

    /// Adds the MLP and the residual: `x + ls_2(mlp(ln_2(x)))`.
    pub(super) fn mlp(&mut self, block: &Block, stream: &Stream) -> Result<Stream, ExportError> {
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

    /// Adds the bias and the MLP's activation.
    pub(super) fn activate(&mut self, hidden: LinearOutput) -> Value {
        if self.activation == Activation::Gelu
            && let LinearOutput { value, bias: Some(bias) } = &hidden
        {
            return self.g.microsoft_op("BiasGelu", &[value, bias], &[], &[]);
        }
        let x = self.with_bias(hidden);
        match self.activation {
            Activation::Gelu => self.g.op("Gelu", &[&x], &[]),
            Activation::GeluTanh => self.g.op("Gelu", &[&x], &[("approximate", Attr::Text("tanh"))]),
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

    /// Adds the attention of an image's tokens to each other: query, key and value `[N, T, H*D]` -> `[N, T, H*D]`.
    pub(super) fn image_attention(&mut self, block: &Block, qkv: [&Value; 3], tokens: usize) -> Value {
        if tokens > MAX_TOKENS_OF_PLAIN_ATTENTION {
            self.fused_attention(block, qkv)
        } else {
            self.attention(block, qkv, None)
        }
    }

    /// Adds an attention: query `[N, T, H*D]`, key and value `[N, S, H*D]` -> `[N, T, H*D]`. It is ONNX Runtime's operator in
    /// fused graphs without a mask, else ONNX's.
    pub(super) fn attention(&mut self, block: &Block, qkv: [&Value; 3], mask: Option<&Value>) -> Value {
        if mask.is_none() && self.is_fused() {
            return self.fused_attention(block, qkv);
        }
        let heads = block.heads as i64;
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

    fn fused_attention(&mut self, block: &Block, qkv: [&Value; 3]) -> Value {
        let attrs = [("num_heads", Attr::Int(block.heads as i64)), ("scale", Attr::Float(block.scale()))];
        self.g.microsoft_op("MultiHeadAttention", &qkv, &[], &attrs)
    }
}
