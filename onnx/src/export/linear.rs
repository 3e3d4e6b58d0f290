//! Linear layers, `[rows, in] -> [rows, out]`, in the precision of the export.
//!
//! fp32: `Gemm` on torch's layout. fp16: `MatMul` on the transposed weight, whose bias the operator behind it adds: on a GPU
//! 1.5 times as fast as a `Gemm` with its bias. int8: weights in 8 bits with a scale per output; activations are quantised as
//! they come with a scale per row, so that a row depends on nothing else (ONNX Runtime's DynamicQuantizeMatMul takes one
//! scale for the whole batch). Products are summed in 32-bit integers, exactly.

use super::{
    ExportError,
    blocks::Tower,
    graph::{Attr, DType, Value},
    weights::Stored,
};
use crate::{checkpoint::TensorReader, model::Precision};

/// Largest magnitude of a quantised number; symmetric, so -128 stays unused.
const LEVELS: f32 = 127.0;
/// What stands for 0 in quantised activations, which ONNX Runtime's fast kernels want unsigned.
const ZERO: u8 = 128;
/// Rows of zeros are divided by this instead of 0.
const LEAST_MAXIMUM: f32 = 1e-20;

/// Activations in 8 bits.
#[derive(Clone)]
pub struct Quantised {
    /// u8 around [`ZERO`], `[rows, in]`.
    values: Value,
    /// f32, `[rows, 1]`.
    scale: Value,
}

/// Names of a linear layer's tensors in the weights file, and its sizes.
pub struct Linear<'a> {
    /// Weight.
    pub weight: &'a str,
    /// Bias, if it has one.
    pub bias: Option<&'a str>,
    /// `[out, in]`.
    pub sizes: [usize; 2],
}

/// A linear layer's result `[rows, out]`. Where the graph is fused its bias is left to the operator behind it.
pub struct Product {
    /// The result; without the bias, if that is given.
    pub value: Value,
    /// What is still to be added, `[out]`.
    pub bias: Option<Value>,
}

impl Tower<'_> {
    /// `x @ weight.T + bias`. `make_weight` gives `[out, in]`, `make_bias` `[out]`; neither is called when an earlier graph
    /// stored the tensors.
    pub fn project(
        &mut self,
        x: &Value,
        linear: &Linear<'_>,
        make_weight: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
        make_bias: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<Value, ExportError> {
        let product = self.product(x, linear, make_weight, make_bias)?;
        Ok(self.with_bias(product))
    }

    /// A product with its bias added, `[rows, out]`.
    pub fn with_bias(&mut self, product: Product) -> Value {
        match product {
            Product { value, bias: Some(bias) } => self.g.op("Add", &[&value, &bias], &[]),
            Product { value, bias: None } => value,
        }
    }

    /// As [`Tower::project`], with the bias left open where the graph is fused.
    pub fn product(
        &mut self,
        x: &Value,
        linear: &Linear<'_>,
        make_weight: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
        make_bias: impl FnOnce(&TensorReader) -> Result<Vec<f32>, ExportError>,
    ) -> Result<Product, ExportError> {
        let bias = match linear.bias {
            Some(name) => Some(self.made(name, &linear.sizes[..1], make_bias)?),
            None => None,
        };
        if self.precision == Precision::Int8 {
            let product = self.integer_product(x, linear, make_weight)?;
            let value = self.with_bias(Product { value: product, bias });
            return Ok(Product { value, bias: None });
        }
        if self.is_fused() {
            let [out, input] = linear.sizes;
            let weight =
                self.made(linear.weight, &[input, out], |r| Ok(transpose(&make_weight(r)?, [out, input])))?;
            return Ok(Product { value: self.g.op("MatMul", &[x, &weight], &[]), bias });
        }
        let weight = self.made(linear.weight, &linear.sizes, make_weight)?;
        let inputs: Vec<&Value> = [x, &weight].into_iter().chain(&bias).collect();
        Ok(Product { value: self.g.op("Gemm", &inputs, &[("transB", Attr::Int(1))]), bias: None })
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
        let x = self.quantised(x);
        let (one, zero) = (self.g.real(DType::F32, 1.0), self.g.byte(ZERO));
        let product =
            self.g.microsoft_op("MatMulIntegerToFloat", &[&x.values, &weight, &one, &scale, &zero], &[], &[]);
        Ok(self.g.op("Mul", &[&product, &x.scale], &[]))
    }

    /// The weight as i8 `[in, out]` and its scales f32 `[out]`.
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

    /// Rows in 8 bits: `round(127 x / max|x|)`. Layers that read the same activations share this.
    fn quantised(&mut self, x: &Value) -> Quantised {
        if let Some(known) = self.quantised.get(x) {
            return known.clone();
        }
        let axis = self.g.ints(&[-1]);
        let magnitude = self.g.op("Abs", &[x], &[]);
        let largest = self.g.op("ReduceMax", &[&magnitude, &axis], &[("keepdims", Attr::Int(1))]);
        let least = self.g.real(DType::F32, LEAST_MAXIMUM);
        let largest = self.g.op("Max", &[&largest, &least], &[]);
        let levels = self.g.real(DType::F32, LEVELS);
        let inverse = self.g.op("Div", &[&levels, &largest], &[]);
        let spread = self.g.op("Mul", &[x, &inverse], &[]);
        let (one, zero) = (self.g.real(DType::F32, 1.0), self.g.byte(ZERO));
        let values = self.g.op("QuantizeLinear", &[&spread, &one, &zero], &[]);
        let level = self.g.real(DType::F32, 1.0 / LEVELS);
        let scale = self.g.op("Mul", &[&largest, &level], &[]);
        let quantised = Quantised { values, scale };
        self.quantised.insert(x.clone(), quantised.clone());
        quantised
    }
}

/// `[rows, columns]` to `[columns, rows]`, both row-major.
pub fn transpose(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// `[out, in]` to i8 `[in, out]` and a scale per output, f32 `[out]`.
fn quantise(weight: &[f32], [out, input]: [usize; 2]) -> (Vec<i8>, Vec<f32>) {
    let mut values = vec![0; weight.len()];
    let mut scales = Vec::with_capacity(out);
    for (o, row) in weight.chunks_exact(input).enumerate() {
        let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs())).max(LEAST_MAXIMUM);
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
    fn weights_keep_their_extremes_and_zero() {
        let (values, scales) = quantise(&[1.0, -2.0, 0.5, 0.0, 0.0, 0.0], [2, 3]);
        // [in, out]: column 0 is the first output.
        assert_eq!(values, [64, 0, -127, 0, 32, 0]);
        assert!((scales[0] - 2.0 / 127.0).abs() < 1e-9 && scales[1] > 0.0);
    }
}
