//! `decoder.onnx` over a fixed set of slots: one image per slot, some rows per slot, one token per row and step.
//!
//! The rows of a slot share its cross-attention keys and values. Caches are bound once and written in place. A slot's image
//! can be replaced between steps, so short captions need not wait for long ones. Memory is `slots * slot_bytes`, computed
//! before anything is allocated.

use half::f16;
use ort::{
    memory::Allocator,
    session::{IoBinding, Session},
    value::{DynTensor, PrimitiveTensorElementType, Tensor, TensorElementType},
};

use super::{Encoded, RuntimeError, SessionOptions, image_encoder::owned_ids, session};
use crate::model::{
    DECODER_FILE, DecoderDimensions, ModelFolder, Precision, cross_key, cross_value, past_key, past_value,
    present_key, present_value,
};

/// Next token of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowUpdate {
    /// Token that the row reads in this step.
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
    /// Keys and values of self-attentions, alternating, `[rows, H, L, D]`.
    caches: Vec<DynTensor>,
    /// Keys and values of cross-attentions, alternating, `[slots, Q, H * D]`.
    cross: Vec<DynTensor>,
}

/// The decoder and its slots.
pub struct Decoder {
    session: Session,
    dimensions: DecoderDimensions,
    vocab_size: usize,
    precision: Precision,
    cache_length: usize,
    rows_per_slot: usize,
    bank: Option<Bank>,
}

impl Decoder {
    /// Loads the graph for rows that read at most `cache_length` tokens, start token included. No slots yet.
    ///
    /// # Errors
    /// When the model has no decoder, the library or the graph cannot be loaded, or `cache_length` does not fit the model.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
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
        Ok(Self {
            session: session::create(&model.path(DECODER_FILE), options)?,
            dimensions,
            vocab_size: model.spec.dimensions.vocab_size,
            precision: model.spec.precision,
            cache_length,
            rows_per_slot,
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
        let element = self.precision.cache_bytes();
        let cache: usize = (0..d.cached_layers())
            .map(|i| d.cache_heads(i))
            .map(|(h, s)| 2 * h * s * self.cache_length)
            .sum();
        let cross = 2 * d.decoder_layers * d.image_tokens * d.cross_width();
        (cache * self.rows_per_slot + cross) * element + self.rows_per_slot * self.vocab_size * 4
    }

    /// Changes the number of slots. New slot `i` takes over what slot `keep[i]` held; the rest is empty. Tensors are replaced
    /// one at a time, so that old and new ones do not exist twice.
    ///
    /// # Errors
    /// When memory cannot be had: all slots are gone then.
    pub fn resize(&mut self, slots: usize, keep: &[usize]) -> Result<(), RuntimeError> {
        debug_assert!(keep.len() <= slots);
        let old = self.bank.take().map(|bank| (bank.caches, bank.cross));
        let failed = |source| RuntimeError::Run { graph: "decoder (allocating slots)", rows: slots, source };
        self.bank = Some(self.new_bank(slots, old, keep).map_err(failed)?);
        Ok(())
    }

    /// Frees all slots.
    pub fn release(&mut self) {
        self.bank = None;
    }

    fn new_bank(
        &self,
        slots: usize,
        old: Option<(Vec<DynTensor>, Vec<DynTensor>)>,
        keep: &[usize],
    ) -> ort::Result<Bank> {
        let (d, rows) = (&self.dimensions, slots * self.rows_per_slot);
        let allocator = Allocator::default();
        let mut binding = self.session.create_binding()?;
        let mut ids = owned_ids(rows)?;
        let mut positions = owned_ids(rows)?;
        ids.extract_tensor_mut().1.fill(0);
        positions.extract_tensor_mut().1.fill(0);
        binding.bind_input("ids", &ids)?;
        binding.bind_input("positions", &positions)?;
        let mut logits = Tensor::<f32>::new(&allocator, [rows, self.vocab_size])?;
        binding.bind_output("logits", &mut logits)?;
        let (old_caches, old_cross) = old.unwrap_or_default();
        let (mut old_caches, mut old_cross) = (old_caches.into_iter(), old_cross.into_iter());
        let mut caches = Vec::new();
        for layer in 0..d.cached_layers() {
            let (heads, size) = d.cache_heads(layer);
            for (past, present) in
                [(past_key(layer), present_key(layer)), (past_value(layer), present_value(layer))]
            {
                let mut cache = self.zeros(&allocator, &[rows, heads, self.cache_length, size])?;
                if let Some(old) = old_caches.next() {
                    keep_rows(&mut cache, &old, keep, self.rows_per_slot)?;
                }
                binding.bind_input(past, &cache)?;
                binding.bind_output(present, &mut cache)?;
                caches.push(cache);
            }
        }
        let mut cross = Vec::new();
        for layer in 0..d.decoder_layers {
            for name in [cross_key(layer), cross_value(layer)] {
                let mut tensor = self.zeros(&allocator, &[slots, d.image_tokens, d.cross_width()])?;
                if let Some(old) = old_cross.next() {
                    keep_rows(&mut tensor, &old, keep, 1)?;
                }
                binding.bind_input(name, &tensor)?;
                cross.push(tensor);
            }
        }
        Ok(Bank { slots, binding, ids, positions, logits, caches, cross })
    }

    /// Zeroed, not left as found: an empty slot is computed too, and what it holds must be numbers.
    fn zeros(&self, allocator: &Allocator, shape: &[usize]) -> ort::Result<DynTensor> {
        let kind = match self.precision {
            Precision::Fp32 | Precision::Int8 => TensorElementType::Float32,
            Precision::Fp16 => TensorElementType::Float16,
        };
        let mut tensor = DynTensor::new(allocator, kind, shape)?;
        match self.precision {
            Precision::Fp32 | Precision::Int8 => tensor.try_extract_tensor_mut::<f32>()?.1.fill(0.0),
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

    /// One step of all rows; `updates[i]` is what row `i` reads, `None` leaves it idle. Slot s has the rows
    /// `s * rows_per_slot ..`. Returns the logits `[rows, V]`, which the caller may change.
    ///
    /// # Errors
    /// When `updates` does not match the rows, a position lies outside the cache, or the graph fails.
    pub fn step(&mut self, updates: &[Option<RowUpdate>]) -> Result<&mut [f32], RuntimeError> {
        let bank = bank(&mut self.bank, 0)?;
        if updates.len() != bank.slots * self.rows_per_slot {
            return Err(RuntimeError::Input(format!(
                "{} updates for {} slots of {} rows",
                updates.len(),
                bank.slots,
                self.rows_per_slot
            )));
        }
        let ids = bank.ids.extract_tensor_mut().1;
        let positions = bank.positions.extract_tensor_mut().1;
        for (i, update) in updates.iter().enumerate() {
            let update = update.unwrap_or(RowUpdate { id: 0, position: 0 });
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
            rows: updates.len(),
            source,
        })?;
        Ok(bank.logits.extract_tensor_mut().1)
    }

    /// Copies the first `length` positions of row `from`'s caches to row `to`, for every `(from, to, length)`.
    ///
    /// # Errors
    /// When there is no such row or position.
    pub fn copy_caches(&mut self, copies: &[(usize, usize, usize)]) -> Result<(), RuntimeError> {
        if copies.is_empty() {
            return Ok(());
        }
        let rows_per_slot = self.rows_per_slot;
        let bank = bank(&mut self.bank, 0)?;
        let rows = bank.slots * rows_per_slot;
        if copies.iter().any(|(from, to, length)| (*from).max(*to) >= rows || *length > self.cache_length) {
            return Err(RuntimeError::Input(format!("a cache copy leaves the {rows} rows")));
        }
        let failed = |source| RuntimeError::Run { graph: "decoder (copying caches)", rows, source };
        for cache in &mut bank.caches {
            match self.precision {
                Precision::Fp32 | Precision::Int8 => copy_prefixes::<f32>(cache, copies),
                Precision::Fp16 => copy_prefixes::<f16>(cache, copies),
            }
            .map_err(failed)?;
        }
        Ok(())
    }
}

fn bank(bank: &mut Option<Bank>, slot: usize) -> Result<&mut Bank, RuntimeError> {
    bank.as_mut()
        .filter(|b| slot < b.slots)
        .ok_or_else(|| RuntimeError::Input(format!("the decoder has no slot {slot}")))
}

/// Takes over the rows of the slots in `keep`.
fn keep_rows(to: &mut DynTensor, from: &DynTensor, keep: &[usize], rows: usize) -> ort::Result<()> {
    for (slot, kept) in keep.iter().enumerate() {
        for row in 0..rows {
            copy_row(to, slot * rows + row, from, kept * rows + row)?;
        }
    }
    Ok(())
}

/// Copies the first `length` positions of all heads of a row `[H, L, D]` to another one.
fn copy_prefixes<T: PrimitiveTensorElementType + Copy>(
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
