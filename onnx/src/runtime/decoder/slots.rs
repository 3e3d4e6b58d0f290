//! The tensors of a decoder's slots, and the binding over them.

use ort::{
    memory::Allocator,
    session::{IoBinding, Session},
    value::{DynTensor, Tensor, TensorElementType},
};

use super::{device, host};
use crate::{
    model::{
        DecoderDimensions, ModelFolder, Precision, cross_key, cross_value, past_key, past_value, present_key,
        present_value,
    },
    runtime::{device::DeviceCopyGraphs, error::RuntimeError},
};

/// Names of [`SlotBuffers::inputs`].
const INPUTS: [&str; 2] = ["ids", "positions"];

/// What the size of a slot depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotShape {
    /// Sizes of the decoder's graph.
    pub(super) dimensions: DecoderDimensions,
    /// Size of the vocabulary, `V`.
    pub(super) vocab_size: usize,
    /// Precision of caches and of cross-attention keys and values.
    pub(super) precision: Precision,
    /// Positions per row, `L`.
    pub(super) cache_length: usize,
    /// Rows per slot.
    pub(super) rows_per_slot: usize,
}

impl SlotShape {
    /// Returns the shape for rows that read at most `cache_length` tokens.
    ///
    /// # Errors
    /// When the model has no decoder, or `cache_length` does not fit it.
    pub(super) fn of(
        model: &ModelFolder,
        cache_length: usize,
        rows_per_slot: usize,
    ) -> Result<Self, RuntimeError> {
        let dimensions = model.decoder()?;
        let context = model.spec.dimensions.context_length;
        if cache_length == 0 || cache_length >= context || rows_per_slot == 0 {
            return Err(RuntimeError::Input(format!(
                "{cache_length} tokens of prompt and caption are out of range: this model takes 1 to {} together",
                context - 1
            )));
        }
        let (vocab_size, precision) = (model.spec.dimensions.vocab_size, model.spec.precision);
        Ok(Self { dimensions, vocab_size, precision, cache_length, rows_per_slot })
    }

    /// Returns the bytes that one slot holds: self-attention caches, cross-attention keys and values, logits.
    pub(super) fn slot_bytes(&self) -> usize {
        let d = &self.dimensions;
        let cache: usize = (0..d.cached_layers())
            .map(|i| d.cache_heads(i))
            .map(|(heads, size)| 2 * heads * size * self.cache_length)
            .sum();
        cache * self.rows_per_slot * self.precision.cache_bytes()
            + self.cross_bytes()
            + self.rows_per_slot * self.vocab_size * 4
    }

    /// Returns the bytes of one image's cross-attention keys and values.
    pub(super) fn cross_bytes(&self) -> usize {
        let d = &self.dimensions;
        2 * d.decoder_layers * d.image_tokens * d.cross_width() * self.precision.cache_bytes()
    }
}

/// Tensors of a given number of slots, and the binding over them.
#[derive(Debug)]
pub(super) struct SlotBuffers {
    /// Number of slots.
    pub(super) slots: usize,
    /// Inputs and outputs of the decoder's session.
    pub(super) binding: IoBinding,
    /// Ids and positions that rows read next, i64 `[rows, 1]` each, on the host.
    pub(super) inputs: [Tensor<i64>; 2],
    /// Copies of the inputs on the device, always at the same addresses; `None` where the host's are bound.
    device_inputs: Option<[Tensor<i64>; 2]>,
    /// f32 `[rows, V]`.
    pub(super) logits: Tensor<f32>,
    /// A copy of logits that are on a device.
    host_logits: Option<Tensor<f32>>,
    /// Keys and values of self-attentions, alternating, `[rows, H, L, D]`.
    pub(super) caches: Vec<DynTensor>,
    /// Keys and values of cross-attentions, alternating, `[slots, Q, H * D]`.
    pub(super) cross: Vec<DynTensor>,
}

impl SlotBuffers {
    /// Allocates `slots` slots; new slot `i` takes over what slot `keep[i]` of `old` held. Old tensors are replaced one at a
    /// time, so that old and new ones do not exist twice. With `copies` the tensors are on their device.
    pub(super) fn allocate(
        session: &Session,
        copies: &mut Option<DeviceCopyGraphs>,
        shape: &SlotShape,
        (slots, keep): (usize, &[usize]),
        old: Option<Self>,
    ) -> ort::Result<Self> {
        let (d, rows) = (shape.dimensions, slots * shape.rows_per_slot);
        // Everything but these is freed before anything is allocated.
        let (old_caches, old_cross) = old.map(|old| (old.caches, old.cross)).unwrap_or_default();
        let allocator = match copies {
            Some(copies) => copies.allocator()?,
            None => Allocator::default(),
        };
        let inputs = [host::ids(rows)?, host::ids(rows)?];
        let device_input = || Tensor::<i64>::new(&allocator, [rows, 1]);
        let device_inputs = match copies {
            Some(_) => Some([device_input()?, device_input()?]),
            None => None,
        };
        let logits = Tensor::<f32>::new(&allocator, [rows, shape.vocab_size])?;
        let (mut old_caches, mut old_cross) = (old_caches.into_iter(), old_cross.into_iter());
        let mut tensors = SlotTensors { copies, allocator: &allocator, precision: shape.precision, keep };
        let mut caches = Vec::new();
        for layer in 0..d.cached_layers() {
            let (heads, size) = d.cache_heads(layer);
            let cache = [rows, heads, shape.cache_length, size];
            for _ in 0..2 {
                caches.push(tensors.allocate(&cache, old_caches.next(), shape.rows_per_slot)?);
            }
        }
        let mut cross = Vec::new();
        for _ in 0..2 * d.decoder_layers {
            cross.push(tensors.allocate(&[slots, d.image_tokens, d.cross_width()], old_cross.next(), 1)?);
        }
        let binding = session.create_binding()?;
        let mut buffers =
            Self { slots, binding, inputs, device_inputs, logits, host_logits: None, caches, cross };
        buffers.bind(session)?;
        Ok(buffers)
    }

    /// Binds all tensors to a session of the same graph.
    pub(super) fn bind(&mut self, session: &Session) -> ort::Result<()> {
        let mut binding = session.create_binding()?;
        for (name, input) in INPUTS.iter().zip(self.device_inputs.as_ref().unwrap_or(&self.inputs)) {
            binding.bind_input(*name, input)?;
        }
        binding.bind_output("logits", &mut self.logits)?;
        for (i, cache) in self.caches.iter_mut().enumerate() {
            let [past, present] = cache_names(i);
            binding.bind_input(past, cache)?;
            binding.bind_output(present, cache)?;
        }
        for (i, cross) in self.cross.iter().enumerate() {
            binding.bind_input(cross_name(i), cross)?;
        }
        self.binding = binding;
        Ok(())
    }

    /// Copies ids and positions to the device, if they are bound there: always to the same addresses, which a captured step
    /// reads.
    pub(super) fn upload_inputs(&mut self) -> ort::Result<()> {
        let Some(device_inputs) = &mut self.device_inputs else { return Ok(()) };
        self.inputs.iter().zip(device_inputs).try_for_each(|(input, copy)| input.copy_into(copy))
    }

    /// Copies logits from the device to the host and returns them, `[rows, V]`.
    pub(super) fn download_logits(&mut self) -> ort::Result<&mut [f32]> {
        let copy = match &mut self.host_logits {
            Some(copy) => copy,
            none => none.insert(Tensor::<f32>::new(&Allocator::default(), self.logits.shape().clone())?),
        };
        self.logits.copy_into(&mut *copy)?;
        Ok(copy.extract_tensor_mut().1)
    }
}

/// Allocates tensors that take over slots.
struct SlotTensors<'a> {
    copies: &'a mut Option<DeviceCopyGraphs>,
    allocator: &'a Allocator,
    precision: Precision,
    keep: &'a [usize],
}

impl SlotTensors<'_> {
    /// Returns a tensor whose first rows are those of the kept slots of `old`. The other rows are finite numbers: empty slots
    /// are computed too.
    fn allocate(
        &mut self,
        shape: &[usize],
        old: Option<DynTensor>,
        rows_per_slot: usize,
    ) -> ort::Result<DynTensor> {
        let kind = match self.precision {
            Precision::Fp32 | Precision::Int8 => TensorElementType::Float32,
            Precision::Fp16 => TensorElementType::Float16,
        };
        let kept = (self.keep, rows_per_slot);
        match self.copies {
            Some(copies) => device::tensor(copies, self.allocator, shape, old, kept),
            None => host::tensor(self.allocator, (kind, shape), old, kept),
        }
    }
}

/// Returns input and output of cache `i`: keys and values of the layers, alternating.
fn cache_names(i: usize) -> [String; 2] {
    match i % 2 {
        0 => [past_key(i / 2), present_key(i / 2)],
        _ => [past_value(i / 2), present_value(i / 2)],
    }
}

/// Returns the input of cross-attention tensor `i`: keys and values of the layers, alternating.
fn cross_name(i: usize) -> String {
    if i.is_multiple_of(2) { cross_key(i / 2) } else { cross_value(i / 2) }
}

/// Returns the buffers if they have slot `slot`.
pub(super) fn with_slot(
    buffers: &mut Option<SlotBuffers>,
    slot: usize,
) -> Result<&mut SlotBuffers, RuntimeError> {
    buffers
        .as_mut()
        .filter(|buffers| slot < buffers.slots)
        .ok_or_else(|| RuntimeError::Input(format!("the decoder has no slot {slot}")))
}
