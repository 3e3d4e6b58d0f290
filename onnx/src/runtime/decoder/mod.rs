//! `decoder.onnx` over a fixed set of slots: one image per slot, some rows per slot, one token per row and step.
//!
//! The rows of a slot share its cross-attention keys and values. Caches are bound once and written in place. A slot's image
//! can be replaced between steps, so short captions need not wait for long ones. Memory is `slots * slot_bytes`, computed
//! before anything is allocated. Tensors lie in the host's memory ([`host`]) or stay on the session's device ([`device`]);
//! in the second case nothing but ids and positions crosses to it, and logits leave it only when [`Decoder::step`] asks.

mod device;
mod host;
mod replay;

use self::replay::Replay;
use ort::{
    memory::Allocator,
    session::{IoBinding, Session},
    value::{DynTensor, Tensor, TensorElementType},
};

use super::{
    Encoded, RuntimeError, SessionOptions,
    device::{CacheShape, CrossShape, Movers},
    session,
};
use crate::{
    export::graph::DType,
    model::{
        DECODER_FILE, DecoderDimensions, ModelFolder, Precision, cross_key, cross_value, past_key,
        past_value, present_key, present_value,
    },
};

/// Names of [`Bank::inputs`].
const INPUTS: [&str; 2] = ["ids", "positions"];

/// Next token of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowUpdate {
    /// Token that the row reads in this step.
    pub id: i64,
    /// Its position, 0 for the start token; below the cache length.
    pub position: usize,
}

/// Logits of all rows after a step, `[rows, V]`, where they are.
pub enum Logits<'a> {
    /// In the host's memory, to be changed as the caller likes.
    Host(&'a mut [f32]),
    /// On the device.
    Device(&'a Tensor<f32>),
}

/// Tensors of a given number of slots and the binding over them.
struct Bank {
    slots: usize,
    binding: IoBinding,
    /// What rows read next and where, `[rows, 1]` each, on the host.
    inputs: [Tensor<i64>; 2],
    /// The same on the device, always at one address, if there is a device.
    sent: Option<[Tensor<i64>; 2]>,
    logits: Tensor<f32>,
    /// Where [`Decoder::step`] puts logits that lie on a device.
    mirror: Option<Tensor<f32>>,
    /// Keys and values of self-attentions, alternating, `[rows, H, L, D]`.
    caches: Vec<DynTensor>,
    /// Keys and values of cross-attentions, alternating, `[slots, Q, H * D]`.
    cross: Vec<DynTensor>,
}

/// The decoder and its slots.
pub struct Decoder {
    model: ModelFolder,
    options: SessionOptions,
    session: Session,
    replay: Replay,
    dimensions: DecoderDimensions,
    vocab_size: usize,
    precision: Precision,
    cache_length: usize,
    rows_per_slot: usize,
    most_slots: Option<usize>,
    /// What moves tensors on the session's device; none of a decoder that works in the host's memory.
    device: Option<Movers>,
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
        let (session, replays) = session::create_for_replay(model, DECODER_FILE, options)?;
        let movers = |memory| {
            let cache = |i| {
                let (heads, size) = dimensions.cache_heads(i);
                [CacheShape { heads, size }; 2]
            };
            let caches = (0..dimensions.cached_layers()).flat_map(cache).collect();
            let cross = CrossShape {
                tensors: 2 * dimensions.decoder_layers,
                tokens: dimensions.image_tokens,
                width: dimensions.cross_width(),
            };
            Movers::load(memory, options, DType::of(model.spec.precision), cross, caches)
        };
        Ok(Self {
            device: options.memory().map(movers).transpose()?,
            model: model.clone(),
            options: *options,
            session,
            replay: Replay::new(replays),
            dimensions,
            vocab_size: model.spec.dimensions.vocab_size,
            precision: model.spec.precision,
            cache_length,
            rows_per_slot,
            most_slots: options.most_slots,
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
        let cache: usize = (0..d.cached_layers())
            .map(|i| d.cache_heads(i))
            .map(|(h, s)| 2 * h * s * self.cache_length)
            .sum();
        cache * self.rows_per_slot * self.precision.cache_bytes()
            + self.cross_bytes()
            + self.rows_per_slot * self.vocab_size * 4
    }

    /// Bytes of one image's cross-attention keys and values.
    #[must_use]
    pub fn cross_bytes(&self) -> usize {
        let d = &self.dimensions;
        2 * d.decoder_layers * d.image_tokens * d.cross_width() * self.precision.cache_bytes()
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
        if self.most_slots.is_some_and(|most| slots > most) {
            return Err(failed(ort::Error::new("Failed to allocate memory, as a test wants it")));
        }
        let bank = self.new_bank(slots, old, keep).map_err(failed);
        self.give_back();
        self.bank = Some(bank?);
        Ok(())
    }

    /// Frees all slots.
    pub fn release(&mut self) {
        self.bank = None;
        self.give_back();
    }

    /// Lets other sessions of the device have the memory that was freed.
    fn give_back(&mut self) {
        if let Some(Err(error)) = self.device.as_mut().map(Movers::shrink) {
            tracing::warn!(%error, "memory of the GPU was not given back");
        }
    }

    fn new_bank(
        &mut self,
        slots: usize,
        old: Option<(Vec<DynTensor>, Vec<DynTensor>)>,
        keep: &[usize],
    ) -> ort::Result<Bank> {
        let (d, rows) = (self.dimensions, slots * self.rows_per_slot);
        let allocator = match &self.device {
            Some(movers) => movers.allocator()?,
            None => Allocator::default(),
        };
        let mut binding = self.session.create_binding()?;
        let inputs = [host::ids(rows)?, host::ids(rows)?];
        let sent = match self.device {
            Some(_) => {
                Some([Tensor::<i64>::new(&allocator, [rows, 1])?, Tensor::<i64>::new(&allocator, [rows, 1])?])
            }
            None => None,
        };
        for (name, input) in INPUTS.iter().zip(sent.as_ref().unwrap_or(&inputs)) {
            binding.bind_input(*name, input)?;
        }
        let mut logits = Tensor::<f32>::new(&allocator, [rows, self.vocab_size])?;
        binding.bind_output("logits", &mut logits)?;
        let (old_caches, old_cross) = old.unwrap_or_default();
        let (mut old_caches, mut old_cross) = (old_caches.into_iter(), old_cross.into_iter());
        let mut caches = Vec::new();
        for layer in 0..d.cached_layers() {
            let (heads, size) = d.cache_heads(layer);
            let shape = [rows, heads, self.cache_length, size];
            for _ in 0..2 {
                let mut cache = self.tensor(&allocator, &shape, old_caches.next(), keep)?;
                let [past, present] = cache_names(caches.len());
                binding.bind_input(past, &cache)?;
                binding.bind_output(present, &mut cache)?;
                caches.push(cache);
            }
        }
        let mut cross = Vec::new();
        for i in 0..2 * d.decoder_layers {
            let shape = [slots, d.image_tokens, d.cross_width()];
            let tensor = self.tensor(&allocator, &shape, old_cross.next(), keep)?;
            binding.bind_input(cross_name(i), &tensor)?;
            cross.push(tensor);
        }
        self.replay.restart();
        Ok(Bank { slots, binding, inputs, sent, logits, mirror: None, caches, cross })
    }

    /// A tensor whose first rows are those of the slots in `keep` of `old`. The others are numbers: an empty slot is computed
    /// too, and must not yield anything else.
    fn tensor(
        &mut self,
        allocator: &Allocator,
        shape: &[usize],
        old: Option<DynTensor>,
        keep: &[usize],
    ) -> ort::Result<DynTensor> {
        let kind = match self.precision {
            Precision::Fp32 | Precision::Int8 => TensorElementType::Float32,
            Precision::Fp16 => TensorElementType::Float16,
        };
        // Caches have rows, cross keys and values have slots.
        let rows = if shape.len() == 4 { self.rows_per_slot } else { 1 };
        match &mut self.device {
            Some(movers) => device::tensor(movers, allocator, shape, old, (keep, rows)),
            None => host::tensor(allocator, (kind, shape), old, (keep, rows)),
        }
    }

    /// Puts image `index` of `encoded` into `slot`. Its self-attention cache needs no clearing: positions start at 0.
    ///
    /// # Errors
    /// When there is no such slot or the tensors do not fit.
    pub fn load_image(&mut self, slot: usize, encoded: &Encoded, index: usize) -> Result<(), RuntimeError> {
        self.load_images(&[(slot, index)], encoded)
    }

    /// Puts images of `encoded` into slots, for every pair of slot and index.
    ///
    /// # Errors
    /// As [`Decoder::load_image`].
    pub fn load_images(&mut self, places: &[(usize, usize)], encoded: &Encoded) -> Result<(), RuntimeError> {
        let Some(last) = places.iter().map(|(slot, _)| *slot).max() else { return Ok(()) };
        let bank = bank(&mut self.bank, last)?;
        match &mut self.device {
            Some(movers) => movers.load_rows(&mut bank.cross, &encoded.cross, places),
            None => places.iter().try_for_each(|(slot, index)| {
                let pairs = bank.cross.iter_mut().zip(&encoded.cross);
                pairs.into_iter().try_for_each(|(to, from)| host::copy_row(to, *slot, from, *index))
            }),
        }
        .map_err(|source| RuntimeError::Run {
            graph: "decoder (loading images)",
            rows: places.len(),
            source,
        })
    }

    /// As [`Decoder::run`], with the logits in the host's memory in any case.
    ///
    /// # Errors
    /// As [`Decoder::run`].
    pub fn step(&mut self, updates: &[Option<RowUpdate>]) -> Result<&mut [f32], RuntimeError> {
        self.run_graph(updates)?;
        let on_device = self.device.is_some();
        let bank = bank(&mut self.bank, 0)?;
        if on_device {
            let failed =
                |source| RuntimeError::Run { graph: "decoder (reading logits)", rows: updates.len(), source };
            return device::mirror(bank).map_err(failed);
        }
        Ok(bank.logits.extract_tensor_mut().1)
    }

    /// One step of all rows; `updates[i]` is what row `i` reads, `None` leaves it idle. Slot s has the rows
    /// `s * rows_per_slot ..`. Returns the logits where they are.
    ///
    /// # Errors
    /// When `updates` does not match the rows, a position lies outside the cache, or the graph fails.
    pub fn run(&mut self, updates: &[Option<RowUpdate>]) -> Result<Logits<'_>, RuntimeError> {
        self.run_graph(updates)?;
        let on_device = self.device.is_some();
        let bank = bank(&mut self.bank, 0)?;
        Ok(if on_device {
            Logits::Device(&bank.logits)
        } else {
            Logits::Host(bank.logits.extract_tensor_mut().1)
        })
    }

    fn run_graph(&mut self, updates: &[Option<RowUpdate>]) -> Result<(), RuntimeError> {
        let bank = bank(&mut self.bank, 0)?;
        if updates.len() != bank.slots * self.rows_per_slot {
            return Err(RuntimeError::Input(format!(
                "{} updates for {} slots of {} rows",
                updates.len(),
                bank.slots,
                self.rows_per_slot
            )));
        }
        let [ids, positions] = bank.inputs.each_mut().map(|input| input.extract_tensor_mut().1);
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
        let failed = |source| RuntimeError::Run { graph: "decoder", rows: updates.len(), source };
        device::send_inputs(bank).map_err(failed)?;
        match self.replay.run(&mut self.session, &bank.binding) {
            Ok(()) => Ok(()),
            Err(source) if self.replay.is_on() => {
                self.stop_replaying(&failed(source))?;
                let bank = self::bank(&mut self.bank, 0)?;
                self.session.run_binding(&bank.binding).map(drop).map_err(failed)
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// Goes on without CUDA graphs: a new session over the same slots. The step that failed is run again, which is safe: it
    /// writes the same positions of the caches.
    fn stop_replaying(&mut self, error: &RuntimeError) -> Result<(), RuntimeError> {
        tracing::warn!(%error, "a decoding step failed with CUDA graphs; going on without them");
        self.replay = Replay::new(false);
        self.session = session::create(
            &self.model,
            DECODER_FILE,
            &SessionOptions { cuda_graphs: false, ..self.options },
        )?;
        let Some(bank) = &mut self.bank else { return Ok(()) };
        let mut rebind = || -> ort::Result<()> {
            let mut binding = self.session.create_binding()?;
            for (name, input) in INPUTS.iter().zip(bank.sent.as_ref().unwrap_or(&bank.inputs)) {
                binding.bind_input(*name, input)?;
            }
            binding.bind_output("logits", &mut bank.logits)?;
            for (i, cache) in bank.caches.iter_mut().enumerate() {
                let [past, present] = cache_names(i);
                binding.bind_input(past, cache)?;
                binding.bind_output(present, cache)?;
            }
            for (i, cross) in bank.cross.iter().enumerate() {
                binding.bind_input(cross_name(i), cross)?;
            }
            bank.binding = binding;
            Ok(())
        };
        let rows = bank.slots * self.rows_per_slot;
        rebind().map_err(|source| RuntimeError::Run { graph: "decoder (binding slots)", rows, source })
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
        if let Some(movers) = &mut self.device {
            // What lies behind a row's own length is overwritten before it is read.
            let length = copies.iter().map(|(_, _, length)| *length).max().unwrap_or(0);
            let pairs: Vec<(usize, usize)> = copies.iter().map(|(from, to, _)| (*from, *to)).collect();
            return movers.copy_rows(&mut bank.caches, &pairs, length);
        }
        let failed = |source| RuntimeError::Run { graph: "decoder (copying caches)", rows, source };
        bank.caches.iter_mut().try_for_each(|cache| host::copy_prefixes(cache, copies)).map_err(failed)
    }
}

/// Input and output of cache `i`: keys and values of the layers, alternating.
fn cache_names(i: usize) -> [String; 2] {
    match i % 2 {
        0 => [past_key(i / 2), present_key(i / 2)],
        _ => [past_value(i / 2), present_value(i / 2)],
    }
}

/// Input of cross-attention tensor `i`: keys and values of the layers, alternating.
fn cross_name(i: usize) -> String {
    if i.is_multiple_of(2) { cross_key(i / 2) } else { cross_value(i / 2) }
}

fn bank(bank: &mut Option<Bank>, slot: usize) -> Result<&mut Bank, RuntimeError> {
    bank.as_mut()
        .filter(|b| slot < b.slots)
        .ok_or_else(|| RuntimeError::Input(format!("the decoder has no slot {slot}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundled, export, runtime::ImageEncoder};

    /// Logits of some steps of two rows, with something done before the third.
    fn logits(model: &ModelFolder, replays: bool, before_third: impl FnOnce(&mut Decoder)) -> Vec<Vec<f32>> {
        let options = SessionOptions { as_device: true, ..SessionOptions::on_cpu(1) };
        let mut encoder = ImageEncoder::load(model, &options).expect("encoder");
        let pixels: Vec<u8> = (0..2 * encoder.image_bytes()).map(|i| (i * 7 % 256) as u8).collect();
        let encoded = encoder.encode(&pixels).expect("encoded");
        let mut decoder = Decoder::load(model, &options, 8, 1).expect("decoder");
        decoder.replay = Replay::new(replays);
        decoder.resize(2, &[]).expect("slots");
        decoder.load_images(&[(0, 0), (1, 1)], &encoded).expect("images");
        let mut before_third = Some(before_third);
        (0..7)
            .map(|position| {
                if position == 2 {
                    before_third.take().into_iter().for_each(|change| change(&mut decoder));
                }
                let update = |id| Some(RowUpdate { id, position });
                decoder.step(&[update(5 + position as i64), update(9)]).expect("step").to_vec()
            })
            .collect()
    }

    /// With the run options of CUDA graphs, which the CPU ignores, and after they were given up in the middle of a caption.
    #[test]
    fn giving_up_cuda_graphs_changes_no_logits() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let checkpoint = dir.path().join("checkpoint");
        Bundled::Base.write_checkpoint(&checkpoint).expect("written");
        let model = export(&checkpoint, &dir.path().join("model"), Precision::Fp16).expect("export");
        let want = logits(&model, false, |_| {});
        assert!(want[0] != want[6]);
        assert_eq!(logits(&model, true, |decoder| assert!(decoder.replay.is_on())), want);
        let given_up = logits(&model, true, |decoder| {
            let error = RuntimeError::Input("as if ONNX Runtime had refused".into());
            decoder.stop_replaying(&error).expect("a new session");
            assert!(!decoder.replay.is_on());
        });
        assert_eq!(given_up, want);
    }
}
