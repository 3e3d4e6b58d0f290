//! `decoder.onnx` over a fixed set of slots: one image per slot, one token per slot and step.
//!
//! Caches are bound once and written in place. A slot's image can be replaced between steps, so short captions need not
//! wait for long ones. Memory is `slots * slot_bytes`, computed before anything is allocated.

use half::f16;
use ort::{
    memory::Allocator,
    session::{IoBinding, Session},
    value::{DynTensor, PrimitiveTensorElementType, Tensor, TensorElementType},
};

use super::{Encoded, RuntimeError, SessionOptions, image_encoder::owned_ids, session};
use crate::model::{
    DECODER_FILE, Dimensions, ModelFolder, Precision, cross_key, cross_value, past_key, past_value,
    present_key, present_value,
};

/// Next token of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotUpdate {
    /// Token that the slot reads in this step.
    pub id: i64,
    /// Its position, 0 for the start token; below the cache length.
    pub position: usize,
}

/// Tensors of a given number of slots and the binding over them.
struct Bank {
    slots: usize,
    binding: IoBinding,
    ids: Tensor<i64>,
    positions: Tensor<i64>,
    logits: Tensor<f32>,
    /// Keys and values of self-attentions, alternating, `[slots, H, L, D]`.
    caches: Vec<DynTensor>,
    /// Keys and values of cross-attentions, alternating, `[slots, Q, H * D]`.
    cross: Vec<DynTensor>,
}

/// The decoder and its slots.
pub struct Decoder {
    session: Session,
    dimensions: Dimensions,
    precision: Precision,
    cache_length: usize,
    bank: Option<Bank>,
}

impl Decoder {
    /// Loads the graph for captions of at most `max_tokens` generated tokens. No slots yet.
    ///
    /// # Errors
    /// When the library or the graph cannot be loaded, or `max_tokens` does not fit the model.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        max_tokens: usize,
    ) -> Result<Self, RuntimeError> {
        let dimensions = model.spec.dimensions;
        if max_tokens == 0 || max_tokens >= dimensions.context_length {
            return Err(RuntimeError::Input(format!(
                "max_tokens {max_tokens} is out of range: this model generates 1 to {} tokens",
                dimensions.context_length - 1
            )));
        }
        Ok(Self {
            session: session::create(&model.path(DECODER_FILE), options)?,
            dimensions,
            precision: model.spec.precision,
            cache_length: max_tokens,
            bank: None,
        })
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.bank.as_ref().map_or(0, |b| b.slots)
    }

    /// Bytes that one slot holds: self-attention cache, cross-attention keys and values, logits.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        let d = &self.dimensions;
        let element = match self.precision {
            Precision::Fp32 => 4,
            Precision::Fp16 => 2,
        };
        let cache: usize = (0..d.cached_layers())
            .map(|i| d.cache_heads(i))
            .map(|(h, s)| 2 * h * s * self.cache_length)
            .sum();
        (cache + 2 * d.decoder_layers * d.image_tokens * d.cross_width()) * element + d.vocab_size * 4
    }

    /// Changes the number of slots. New slot `i` takes over what slot `keep[i]` held; the rest is empty.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn resize(&mut self, slots: usize, keep: &[usize]) -> Result<(), RuntimeError> {
        debug_assert!(keep.len() <= slots);
        let failed = |source| RuntimeError::Run { graph: "decoder (allocating slots)", rows: slots, source };
        let mut bank = self.new_bank(slots).map_err(failed)?;
        if let Some(old) = &self.bank {
            let pairs = bank.caches.iter_mut().zip(&old.caches).chain(bank.cross.iter_mut().zip(&old.cross));
            for (to, from) in pairs {
                for (row, kept) in keep.iter().enumerate() {
                    copy_row(to, row, from, *kept).map_err(failed)?;
                }
            }
        }
        self.bank = Some(bank);
        Ok(())
    }

    fn new_bank(&self, slots: usize) -> ort::Result<Bank> {
        let d = &self.dimensions;
        let allocator = Allocator::default();
        let mut binding = self.session.create_binding()?;
        let mut ids = owned_ids(slots)?;
        let mut positions = owned_ids(slots)?;
        ids.extract_tensor_mut().1.fill(0);
        positions.extract_tensor_mut().1.fill(0);
        binding.bind_input("ids", &ids)?;
        binding.bind_input("positions", &positions)?;
        let mut logits = Tensor::<f32>::new(&allocator, [slots, d.vocab_size])?;
        binding.bind_output("logits", &mut logits)?;
        let mut caches = Vec::new();
        for layer in 0..d.cached_layers() {
            let (heads, size) = d.cache_heads(layer);
            for (past, present) in
                [(past_key(layer), present_key(layer)), (past_value(layer), present_value(layer))]
            {
                let mut cache = self.zeros(&allocator, &[slots, heads, self.cache_length, size])?;
                binding.bind_input(past, &cache)?;
                binding.bind_output(present, &mut cache)?;
                caches.push(cache);
            }
        }
        let mut cross = Vec::new();
        for layer in 0..d.decoder_layers {
            for name in [cross_key(layer), cross_value(layer)] {
                let tensor = self.zeros(&allocator, &[slots, d.image_tokens, d.cross_width()])?;
                binding.bind_input(name, &tensor)?;
                cross.push(tensor);
            }
        }
        Ok(Bank { slots, binding, ids, positions, logits, caches, cross })
    }

    /// Zeroed, not left as found: an empty slot is computed too, and what it holds must be numbers.
    fn zeros(&self, allocator: &Allocator, shape: &[usize]) -> ort::Result<DynTensor> {
        let kind = match self.precision {
            Precision::Fp32 => TensorElementType::Float32,
            Precision::Fp16 => TensorElementType::Float16,
        };
        let mut tensor = DynTensor::new(allocator, kind, shape)?;
        match self.precision {
            Precision::Fp32 => tensor.try_extract_tensor_mut::<f32>()?.1.fill(0.0),
            Precision::Fp16 => tensor.try_extract_tensor_mut::<f16>()?.1.fill(f16::ZERO),
        }
        Ok(tensor)
    }

    /// Puts image `index` of `encoded` into `slot`. Its self-attention cache needs no clearing: positions start at 0.
    ///
    /// # Errors
    /// When there is no such slot or the tensors do not fit.
    pub fn load_image(&mut self, slot: usize, encoded: &Encoded, index: usize) -> Result<(), RuntimeError> {
        let bank = bank(&mut self.bank, slot)?;
        for (to, from) in bank.cross.iter_mut().zip(&encoded.cross) {
            copy_row(to, slot, from, index).map_err(|source| RuntimeError::Run {
                graph: "decoder (loading an image)",
                rows: 1,
                source,
            })?;
        }
        Ok(())
    }

    /// One step of all slots; `updates[i]` is what slot `i` reads, `None` leaves an empty slot idle.
    /// Returns the logits `[slots, V]`, which the caller may change.
    ///
    /// # Errors
    /// When `updates` does not match the slots, a position lies outside the cache, or the graph fails.
    pub fn step(&mut self, updates: &[Option<SlotUpdate>]) -> Result<&mut [f32], RuntimeError> {
        let bank = bank(&mut self.bank, updates.len().saturating_sub(1))?;
        if updates.len() != bank.slots {
            return Err(RuntimeError::Input(format!("{} updates for {} slots", updates.len(), bank.slots)));
        }
        let ids = bank.ids.extract_tensor_mut().1;
        let positions = bank.positions.extract_tensor_mut().1;
        for (i, update) in updates.iter().enumerate() {
            let update = update.unwrap_or(SlotUpdate { id: 0, position: 0 });
            // ONNX Runtime's kernel would write outside the cache without a word.
            if update.position >= self.cache_length {
                return Err(RuntimeError::Input(format!(
                    "position {} is outside the cache of {}",
                    update.position, self.cache_length
                )));
            }
            ids[i] = update.id;
            positions[i] = update.position as i64;
        }
        self.session.run_binding(&bank.binding).map_err(|source| RuntimeError::Run {
            graph: "decoder",
            rows: bank.slots,
            source,
        })?;
        Ok(bank.logits.extract_tensor_mut().1)
    }
}

fn bank(bank: &mut Option<Bank>, slot: usize) -> Result<&mut Bank, RuntimeError> {
    bank.as_mut()
        .filter(|b| slot < b.slots)
        .ok_or_else(|| RuntimeError::Input(format!("the decoder has no slot {slot}")))
}

/// Copies row `from_row` of `from` into row `to_row` of `to`; both `[_, ...]` with equal rest.
fn copy_row(to: &mut DynTensor, to_row: usize, from: &DynTensor, from_row: usize) -> ort::Result<()> {
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
