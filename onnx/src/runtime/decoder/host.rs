//! A decoder's tensors in host memory, accessed as slices.

use half::f16;
use ort::{
    memory::Allocator,
    value::{DynTensor, PrimitiveTensorElementType, Tensor, TensorElementType},
};

/// Returns a zeroed i64 tensor `[rows, 1]` in memory of ONNX Runtime, so that it can be bound and rewritten.
pub(super) fn ids(rows: usize) -> ort::Result<Tensor<i64>> {
    let mut ids = Tensor::<i64>::new(&Allocator::default(), [rows, 1])?;
    ids.extract_tensor_mut().1.fill(0);
    Ok(ids)
}

/// Returns a tensor that takes over the slots in `keep`, of `rows` rows each, from `old`; the rest is zero.
pub(super) fn tensor(
    allocator: &Allocator,
    (kind, shape): (TensorElementType, &[usize]),
    old: Option<DynTensor>,
    (keep, rows): (&[usize], usize),
) -> ort::Result<DynTensor> {
    let mut tensor = DynTensor::new(allocator, kind, shape)?;
    match kind {
        TensorElementType::Float16 => tensor.try_extract_tensor_mut::<f16>()?.1.fill(f16::ZERO),
        _ => tensor.try_extract_tensor_mut::<f32>()?.1.fill(0.0),
    }
    if let Some(old) = old {
        keep_rows(&mut tensor, &old, keep, rows)?;
    }
    Ok(tensor)
}

/// Copies the rows of the slots in `keep`.
fn keep_rows(to: &mut DynTensor, from: &DynTensor, keep: &[usize], rows: usize) -> ort::Result<()> {
    for (slot, kept) in keep.iter().enumerate() {
        for row in 0..rows {
            copy_row(to, slot * rows + row, from, kept * rows + row)?;
        }
    }
    Ok(())
}

/// Copies the first `length` positions of all heads of a row `[H, L, D]` to another one, for every `(from, to, length)`.
pub(super) fn copy_prefixes(cache: &mut DynTensor, copies: &[(usize, usize, usize)]) -> ort::Result<()> {
    match cache.data_type() {
        TensorElementType::Float16 => copy_prefixes_of::<f16>(cache, copies),
        _ => copy_prefixes_of::<f32>(cache, copies),
    }
}

fn copy_prefixes_of<T: PrimitiveTensorElementType + Copy>(
    cache: &mut DynTensor,
    copies: &[(usize, usize, usize)],
) -> ort::Result<()> {
    let (shape, values) = cache.try_extract_tensor_mut::<T>()?;
    let (heads, positions, size) = (shape[1] as usize, shape[2] as usize, shape[3] as usize);
    for (from, to, length) in copies {
        for head in 0..heads {
            let at = |row: usize| (row * heads + head) * positions * size;
            values.copy_within(at(*from)..at(*from) + length * size, at(*to));
        }
    }
    Ok(())
}

/// Copies row `from_row` of `from` into row `to_row` of `to`; both `[_, ...]` with equal rest.
pub(super) fn copy_row(
    to: &mut DynTensor,
    to_row: usize,
    from: &DynTensor,
    from_row: usize,
) -> ort::Result<()> {
    match from.data_type() {
        TensorElementType::Float16 => copy_row_of::<f16>(to, to_row, from, from_row),
        _ => copy_row_of::<f32>(to, to_row, from, from_row),
    }
}

fn copy_row_of<T: PrimitiveTensorElementType + Copy>(
    to: &mut DynTensor,
    to_row: usize,
    from: &DynTensor,
    from_row: usize,
) -> ort::Result<()> {
    let (shape, source) = from.try_extract_tensor::<T>()?;
    let len = source.len() / shape[0].max(1) as usize;
    let target = to.try_extract_tensor_mut::<T>()?.1;
    target[to_row * len..(to_row + 1) * len].copy_from_slice(&source[from_row * len..(from_row + 1) * len]);
    Ok(())
}
