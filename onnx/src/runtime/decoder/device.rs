//! A decoder's tensors on the session's device. Nothing here looks into them.

use ort::{
    memory::Allocator,
    value::{DynTensor, Tensor},
};

use super::Bank;
use crate::runtime::device::Movers;

/// A tensor that takes over the slots in `keep`, of so many rows each, from `old`. The rest is zero, or a copy of what was
/// in the first row: numbers in any case.
pub fn tensor(
    movers: &mut Movers,
    allocator: &Allocator,
    shape: &[usize],
    old: Option<DynTensor>,
    (keep, rows): (&[usize], usize),
) -> ort::Result<DynTensor> {
    let Some(old) = old else { return movers.zeros(allocator, shape) };
    let kept = |row: usize| keep.get(row / rows).map_or(0, |slot| slot * rows + row % rows);
    movers.gathered(allocator, &old, (0..shape[0]).map(kept))
}

/// Sends ids and positions to the device: an input that lies on the host is copied when it is bound.
pub fn send_inputs(bank: &mut Bank) -> ort::Result<()> {
    bank.binding.bind_input("ids", &bank.ids)?;
    bank.binding.bind_input("positions", &bank.positions)?;
    bank.binding.synchronize_inputs()
}

/// The logits, copied to the host.
pub fn mirror(bank: &mut Bank) -> ort::Result<&mut [f32]> {
    let mirror = match &mut bank.mirror {
        Some(mirror) => mirror,
        none => none.insert(Tensor::<f32>::new(&Allocator::default(), bank.logits.shape().clone())?),
    };
    bank.logits.copy_into(&mut *mirror)?;
    Ok(mirror.extract_tensor_mut().1)
}
