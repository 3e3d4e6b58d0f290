//! A decoder's tensors in device memory. Nothing here reads their values.

use ort::{memory::Allocator, value::DynTensor};

use crate::runtime::device::DeviceCopyGraphs;

/// Returns a tensor that takes over the slots in `keep`, of `rows` rows each, from `old`. The rest is zero, or a copy of the
/// first row: finite numbers in any case.
pub(super) fn tensor(
    copies: &mut DeviceCopyGraphs,
    allocator: &Allocator,
    shape: &[usize],
    old: Option<DynTensor>,
    (keep, rows): (&[usize], usize),
) -> ort::Result<DynTensor> {
    let Some(old) = old else { return copies.zeros(allocator, shape) };
    let kept = |row: usize| keep.get(row / rows).map_or(0, |slot| slot * rows + row % rows);
    copies.gathered(allocator, &old, (0..shape[0]).map(kept))
}
