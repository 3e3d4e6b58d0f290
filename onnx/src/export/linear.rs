//! Linear layers, `[rows, in] -> [rows, out]`, in the precision of the export.
//!
//! fp32: `Gemm` on torch's layout. fp16: `MatMul` on the transposed weight, with the bias left to the next operator: on a GPU
//! 1.5 times as fast as a `Gemm` with its bias. int8: weights in 8 bits with a scale per output; activations are quantised
//! dynamically with a scale per row, so that a row depends on nothing else (ONNX Runtime's DynamicQuantizeMatMul has one scale
//! for the whole batch). Products are summed in 32-bit integers, exactly.

use super::{
    error::ExportError,
    fold::transpose,
    graph::{Attr, DType, Value},
    tower::{Quantised, Tower},
    weights::Stored,
};
use crate::{checkpoint::TensorReader, model::Precision};

/// Largest magnitude of a quantised number; symmetric, so -128 stays unused.
const LEVELS: f32 = 127.0;
/// Zero point of quantised activations: ONNX Runtime's fast kernels need unsigned ones.
const ZERO_POINT: u8 = 128;
/// Smallest divisor of a row, for rows of zeros.
const MIN_MAXIMUM: f32 = 1e-20;

/// Names of a linear layer's tensors in the weights file, and its sizes.
pub(super) struct Linear<'a> {
    /// Name of the weight.
    pub(super) weight: &'a str,
    /// Name of the bias, if there is one.
    pub(super) bias: Option<&'a str>,
    /// `[out, in]`.
    pub(super) sizes: [usize; 2],
}

/// A linear layer's output `[rows, out]`; in fused graphs its bias is left to the next operator.
pub(super) struct LinearOutput {
    /// The output; without the bias, if that is given.
    pub(super) value: Value,
    /// The bias that is still to be added, `[out]`.
    pub(super) bias: Option<Value>,
}

impl Tower<'_> {
    /// Adds `x @ weight.T + bias`. `make_weight` returns `[out, in]`, `make_bias` `[out]`; neither is called if an earlier graph
    /// stored the tensors.
    pub(super) fn project(
        &mut self,
        x: &Value,
        linear: &Linear<'_>,
        make_weight: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
        make_bias: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<Value, ExportError> {
        let product = self.product(x, linear, make_weight, make_bias)?;
        Ok(self.with_bias(product))
    }

    /// Adds the bias, if it is still to be added; returns `[rows, out]`.
    pub(super) fn with_bias(&mut self, product: LinearOutput) -> Value {
        match product {
            LinearOutput { value, bias: Some(bias) } => self.g.op("Add", &[&value, &bias], &[]),
            LinearOutput { value, bias: None } => value,
        }
    }

    /// Adds a linear layer as [`Tower::project`] does, with the bias left open in fused graphs.
    pub(super) fn product(
        &mut self,
        x: &Value,
        linear: &Linear<'_>,
        make_weight: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
        make_bias: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<LinearOutput, ExportError> {
        let bias = match linear.bias {
            Some(name) => Some(self.derived_weight(name, &linear.sizes[..1], make_bias)?),
            None => None,
        };
        if self.precision == Precision::Int8 {
            let product = self.integer_product(x, linear, make_weight)?;
            let value = self.with_bias(LinearOutput { value: product, bias });
            return Ok(LinearOutput { value, bias: None });
        }
        if self.is_fused() {
            let [out, input] = linear.sizes;
            let weight = self.derived_weight(linear.weight, &[input, out], |r| {
                Ok(transpose(&make_weight(r)?, [out, input]))
            })?;
            return Ok(LinearOutput { value: self.g.op("MatMul", &[x, &weight], &[]), bias });
        }
        let weight = self.derived_weight(linear.weight, &linear.sizes, make_weight)?;
        let inputs: Vec<&Value> = [x, &weight].into_iter().chain(&bias).collect();
        Ok(LinearOutput { value: self.g.op("Gemm", &inputs, &[("transB", Attr::Int(1))]), bias: None })
    }

    fn integer_product(
        &mut self,
        x: &Value,
        linear: &Linear<'_>,
        make: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<Value, ExportError> {
        let (weight, scale) = self.integer_weight(linear, make)?;
        let weight = self.g.weight(&format!("{}.int8", linear.weight), DType::I8, &weight);
        let scale = self.g.weight(&format!("{}.scale", linear.weight), DType::F32, &scale);
        let x = self.quantise_rows(x);
        let (one, zero) = (self.g.real(DType::F32, 1.0), self.g.byte(ZERO_POINT));
        let product =
            self.g.microsoft_op("MatMulIntegerToFloat", &[&x.values, &weight, &one, &scale, &zero], &[], &[]);
        Ok(self.g.op("Mul", &[&product, &x.scale], &[]))
    }

    /// Stores the weight as i8 `[in, out]` and its scales f32 `[out]`.
    fn integer_weight(
        &mut self,
        linear: &Linear<'_>,
        make: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<(Stored, Stored), ExportError> {
        let names = (format!("{}.int8", linear.weight), format!("{}.scale", linear.weight));
        if let (Some(weight), Some(scale)) = (self.weights.find(&names.0), self.weights.find(&names.1)) {
            return Ok((weight.clone(), scale.clone()));
        }
        let [out, input] = linear.sizes;
        let (values, scales) = quantise(&make(self.tensors)?, linear.sizes);
        Ok((
            self.weights.store_i8(&names.0, &[input, out], &values)?,
            self.weights.store(&names.1, &[out], &scales)?,
        ))
    }

    /// Quantises rows to 8 bits: `round(127 x / max|x|)`. Layers that read the same activations share the result.
    ///
    /// Activations are read three times and written once, in 8 bits: their magnitudes and multiples are not written down, which took
    /// twice the time.
    fn quantise_rows(&mut self, x: &Value) -> Quantised {
        if let Some(known) = self.quantised.get(x) {
            return known.clone();
        }
        let axis = self.g.ints(&[-1]);
        let most = self.g.op("ReduceMax", &[x, &axis], &[("keepdims", Attr::Int(1))]);
        let least = self.g.op("ReduceMin", &[x, &axis], &[("keepdims", Attr::Int(1))]);
        let (none, floor) = (self.g.real(DType::F32, 0.0), self.g.real(DType::F32, MIN_MAXIMUM));
        let least = self.g.op("Sub", &[&none, &least], &[]);
        let largest = self.g.op("Max", &[&most, &least, &floor], &[]);
        let level = self.g.real(DType::F32, 1.0 / LEVELS);
        let scale = self.g.op("Mul", &[&largest, &level], &[]);
        let rows = self.g.op("Squeeze", &[&scale, &axis], &[]);
        // A scale per row asks for a zero point per row.
        let (count, zero) = (self.g.op("Shape", &[&rows], &[]), self.g.byte(ZERO_POINT));
        let zeros = self.g.op("Expand", &[&zero, &count], &[]);
        let values = self.g.op("QuantizeLinear", &[x, &rows, &zeros], &[("axis", Attr::Int(0))]);
        let quantised = Quantised { values, scale };
        self.quantised.insert(x.clone(), quantised.clone());
        quantised
    }
}

/// Quantises `[out, in]` to i8 `[in, out]` and a scale per output, f32 `[out]`.
fn quantise(weight: &[f32], [out, input]: [usize; 2]) -> (Vec<i8>, Vec<f32>) {
    let mut values = vec![0; weight.len()];
    let mut scales = Vec::with_capacity(out);
    for (o, row) in weight.chunks_exact(input).enumerate() {
        let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs())).max(MIN_MAXIMUM);
        scales.push(largest / LEVELS);
        for (i, v) in row.iter().enumerate() {
            values[i * out + o] = (v / largest * LEVELS).round() as i8;
        }
    }
    (values, scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantised_weights_keep_extremes_and_zero() {
        let (values, scales) = quantise(&[1.0, -2.0, 0.5, 0.0, 0.0, 0.0], [2, 3]);
        // [in, out]: column 0 is the first output.
        assert_eq!(values, [64, 0, -127, 0, 32, 0]);
        assert!((scales[0] - 2.0 / 127.0).abs() < 1e-9 && scales[1] > 0.0);
    }
}
