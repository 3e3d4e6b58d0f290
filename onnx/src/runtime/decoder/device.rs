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

/// Sends ids and positions to the device, if there is one: always to the same addresses, which a captured step reads.
pub fn send_inputs(bank: &mut Bank) -> ort::Result<()> {
    let Some(sent) = &mut bank.sent else { return Ok(()) };
    bank.inputs.iter().zip(sent).try_for_each(|(input, sent)| input.copy_into(sent))
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
