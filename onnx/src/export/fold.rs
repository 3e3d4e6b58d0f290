//! Arithmetic on weights before they are stored: folding, padding and transposing, in f64 where values are summed.

use super::error::ExportError;
use crate::checkpoint::TensorReader;

/// Reads a tensor and multiplies row `i` by `gamma[i]`, if given: LayerScale folded into the layer before it.
pub(super) fn scaled_rows(
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

/// Returns `vector + matrix @ x`, computed in f64; `matrix` is `[vector.len(), x.len()]`, row-major.
pub(super) fn add_product(vector: &[f32], matrix: &[f32], x: &[f32]) -> Vec<f32> {
    let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
    vector
        .iter()
        .zip(matrix.chunks_exact(x.len()))
        .map(|(v, row)| (f64::from(*v) + dot(row)) as f32)
        .collect()
}

/// Appends zero rows to every head of a projection: `[k * heads * dim, columns] -> [k * heads * padded, columns]`.
/// Zero queries and keys add nothing to a score, zero values nothing to an output.
pub(super) fn pad_head_rows(values: &[f32], dim: usize, padded: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len() / dim * padded);
    for head in values.chunks_exact(dim * columns) {
        out.extend_from_slice(head);
        out.resize(out.len() + (padded - dim) * columns, 0.0);
    }
    out
}

/// Appends zeros to every head of an output projection's input: `[rows, heads * dim] -> [rows, heads * padded]`.
pub(super) fn pad_head_columns(values: &[f32], dim: usize, padded: usize) -> Vec<f32> {
    pad_head_rows(values, dim, padded, 1)
}

/// Transposes `[rows, columns]` to `[columns, rows]`, both row-major.
pub(super) fn transpose(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
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
