//! One graph under construction over a checkpoint: its weights, its precision, and the operations that all towers share.
//!
//! Weights keep the checkpoint's names and torch's layout (`[out, in]`, `Gemm` with `transB`).

use std::collections::HashMap;

use super::{
    error::ExportError,
    fold::transpose,
    graph::{Attr, DType, GraphBuilder, Value},
    weights::{Stored, WeightsWriter},
};
use crate::{
    checkpoint::{Activation, EmbeddingProjection, TensorReader},
    model::Precision,
};

/// torch's default epsilon of LayerNorm, which open_clip uses throughout.
pub(super) const LAYER_NORM_EPSILON: f32 = 1e-5;

/// Activations in 8 bits.
#[derive(Clone)]
pub(super) struct Quantised {
    /// u8 around `ZERO_POINT`, `[rows, in]`.
    pub(super) values: Value,
    /// f32, `[rows, 1]`.
    pub(super) scale: Value,
}

/// A graph being built from a checkpoint.
pub(super) struct Tower<'a> {
    /// The graph under construction.
    pub(super) g: GraphBuilder,
    /// Source of weights.
    pub(super) tensors: &'a TensorReader,
    /// The weights file.
    pub(super) weights: &'a mut WeightsWriter,
    /// Precision of the export.
    pub(super) precision: Precision,
    /// Type of activations, and of all weights but int8's linear layers.
    pub(super) dtype: DType,
    /// Activation of the MLPs.
    pub(super) activation: Activation,
    /// Epsilon of LayerNorm.
    pub(super) epsilon: f32,
    /// Activations that are quantised already, by their unquantised value.
    pub(super) quantised: HashMap<Value, Quantised>,
}

impl<'a> Tower<'a> {
    /// Starts an empty graph over a checkpoint.
    pub(super) fn new(
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
            epsilon: LAYER_NORM_EPSILON,
            quantised: HashMap::new(),
        }
    }

    /// Stores a weight under `name`, computed by `make` unless an earlier graph stored it.
    pub(super) fn store_weight(
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

    /// Stores a weight as [`Tower::store_weight`] does, and adds it to the graph.
    pub(super) fn derived_weight(
        &mut self,
        name: &str,
        shape: &[usize],
        make: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<Value, ExportError> {
        let stored = self.store_weight(name, shape, make)?;
        Ok(self.g.weight(name, self.dtype, &stored))
    }

    /// Adds a tensor of the checkpoint, unchanged, to the graph.
    pub(super) fn checkpoint_weight(&mut self, name: &str, shape: &[usize]) -> Result<Value, ExportError> {
        self.derived_weight(name, shape, |t| Ok(t.get(name, shape)?))
    }

    /// Returns whether the graph is built of ONNX Runtime's fused operators, which are faster on a GPU and not on a CPU; fp16
    /// is the GPU's precision. `benchmarks/gpu.py` measures them.
    #[must_use]
    pub(super) fn is_fused(&self) -> bool {
        self.precision == Precision::Fp16
    }

    /// Reshapes rows of tokens to a batch: `[N * tokens, width] -> [N, tokens, width]`.
    pub(super) fn as_batch(&mut self, x: &Value, tokens: usize, width: usize) -> Value {
        let shape = self.g.ints(&[-1, tokens as i64, width as i64]);
        self.g.op("Reshape", &[x, &shape], &[])
    }

    /// Reshapes a batch of tokens to rows: `[N, T, width] -> [N * T, width]`.
    pub(super) fn as_rows(&mut self, x: &Value, width: usize) -> Value {
        let shape = self.g.ints(&[-1, width as i64]);
        self.g.op("Reshape", &[x, &shape], &[])
    }

    /// Selects the first token: `[N, tokens, W] -> [N, W]`.
    pub(super) fn first_token(&mut self, x: &Value) -> Value {
        let index = self.g.int(0);
        self.g.op("Gather", &[x, &index], &[("axis", Attr::Int(1))])
    }

    /// Adds the projection `name` of pooled tokens, `[N, W] -> [N, E]`; it is not quantised.
    pub(super) fn project_pooled(
        &mut self,
        x: &Value,
        name: &str,
        projection: EmbeddingProjection,
        [width, e]: [usize; 2],
    ) -> Result<Value, ExportError> {
        let has_bias = match projection {
            EmbeddingProjection::None => return Ok(x.clone()),
            EmbeddingProjection::Matrix => {
                let proj = self.checkpoint_weight(name, &[width, e])?;
                return Ok(self.g.op("MatMul", &[x, &proj], &[]));
            }
            EmbeddingProjection::Linear { bias } => bias,
        };
        let weight = format!("{name}.weight");
        let proj = self.derived_weight(&weight, &[width, e], |r| {
            Ok(transpose(&r.get(&weight, &[e, width])?, [e, width]))
        })?;
        let product = self.g.op("MatMul", &[x, &proj], &[]);
        if !has_bias {
            return Ok(product);
        }
        let bias = self.checkpoint_weight(&format!("{name}.bias"), &[e])?;
        Ok(self.g.op("Add", &[&product, &bias], &[]))
    }

    /// Divides each row by its L2 norm (at least 1e-12, as in torch); f32 in and out.
    pub(super) fn l2_normalise(&mut self, x: &Value, output: &Value) {
        let axis = self.g.ints(&[-1]);
        let norm = self.g.op("ReduceL2", &[x, &axis], &[("keepdims", Attr::Int(1))]);
        let least = self.g.real(DType::F32, 1e-12);
        let norm = self.g.op("Max", &[&norm, &least], &[]);
        self.g.op_into("Div", &[x, &norm], output, &[]);
    }

    /// Casts to f32, if necessary.
    pub(super) fn cast_to_f32(&mut self, x: &Value) -> Value {
        match self.dtype {
            DType::F32 => x.clone(),
            _ => self.g.op("Cast", &[x], &[("to", Attr::Int(DType::F32.code().into()))]),
        }
    }

    /// Repeats `[1, a, b]` for every image of `like [N, ..]`.
    pub(super) fn repeat(&mut self, x: &Value, like: &Value, [a, b]: [i64; 2]) -> Value {
        let batch = self.g.op("Shape", &[like], &[("start", Attr::Int(0)), ("end", Attr::Int(1))]);
        let rest = self.g.ints(&[a, b]);
        let shape = self.g.op("Concat", &[&batch, &rest], &[("axis", Attr::Int(0))]);
        self.g.op("Expand", &[x, &shape], &[])
    }
}
