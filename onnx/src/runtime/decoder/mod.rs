//! `decoder.onnx` over a fixed set of slots: one image per slot, the same number of rows in each, one token per row and step.
//!
//! The rows of a slot share its cross-attention keys and values. Caches are bound once and written in place. A slot's image
//! can be replaced between steps, so short captions need not wait for long ones. Memory is `slots * slot_bytes`, computed
//! before anything is allocated. Tensors are in host memory (`host`) or stay on the session's device (`device`); then only
//! ids and positions cross to it, and logits leave it only in [`Decoder::step`].

mod device;
mod host;
mod replay;
mod slots;

use ort::{session::Session, value::Tensor};

use self::{
    replay::Replay,
    slots::{SlotBuffers, SlotShape, with_slot},
};
use super::{
    device::{CacheShape, CrossShape, DeviceCopyGraphs},
    error::RuntimeError,
    image_encoder::Encoded,
    options::SessionOptions,
    session,
};
use crate::{
    export::graph::DType,
    model::{DECODER_FILE, DecoderDimensions, ModelFolder},
};

/// What one row reads in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowUpdate {
    /// Id of the token.
    pub id: i64,
    /// Position of the token, 0 for the start token; below the cache length.
    pub position: usize,
}

/// Logits of all rows after a step, `[rows, V]`.
#[derive(Debug)]
pub enum Logits<'a> {
    /// Logits in host memory, which the caller may overwrite.
    Host(&'a mut [f32]),
    /// Logits in device memory.
    Device(&'a Tensor<f32>),
}

/// Bytes that images take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotBytes {
    /// One slot: self-attention caches, cross-attention keys and values, logits.
    pub(crate) slot: usize,
    /// One image's cross-attention keys and values.
    pub(crate) cross: usize,
}

/// The decoder and its slots.
#[derive(Debug)]
pub struct Decoder {
    model: ModelFolder,
    options: SessionOptions,
    session: Session,
    replay: Replay,
    shape: SlotShape,
    /// Copies tensors in device memory; `None` where tensors are in host memory.
    copies: Option<DeviceCopyGraphs>,
    buffers: Option<SlotBuffers>,
}

impl Decoder {
    /// Loads the graph for rows that read at most `cache_length` tokens, start token included. There are no slots yet.
    ///
    /// # Errors
    /// When the model has no decoder, the library or the graph cannot be loaded, or `cache_length` does not fit the model.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        cache_length: usize,
        rows_per_slot: usize,
    ) -> Result<Self, RuntimeError> {
        let shape = SlotShape::of(model, cache_length, rows_per_slot)?;
        let (session, replays) = session::create_for_replay(model, DECODER_FILE, options)?;
        let dtype = DType::of(model.spec.precision);
        let copies = |memory| {
            let (cross, caches) = copy_shapes(&shape.dimensions);
            DeviceCopyGraphs::load(memory, options, dtype, cross, caches)
        };
        Ok(Self {
            copies: options.memory().map(copies).transpose()?,
            model: model.clone(),
            options: *options,
            session,
            replay: Replay::new(replays),
            shape,
            buffers: None,
        })
    }

    /// Returns what slots of a model would hold, without loading it, for rows as in [`Decoder::load`].
    ///
    /// # Errors
    /// As [`Decoder::load`], when rows do not fit the model.
    pub(crate) fn slot_bytes_of(
        model: &ModelFolder,
        cache_length: usize,
        rows_per_slot: usize,
    ) -> Result<SlotBytes, RuntimeError> {
        let shape = SlotShape::of(model, cache_length, rows_per_slot)?;
        Ok(SlotBytes { slot: shape.slot_bytes(), cross: shape.cross_bytes() })
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.slots)
    }

    /// Returns the bytes that one slot holds: self-attention caches, cross-attention keys and values, logits.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.shape.slot_bytes()
    }

    /// Returns the bytes of one image's cross-attention keys and values.
    #[must_use]
    pub fn cross_bytes(&self) -> usize {
        self.shape.cross_bytes()
    }

    /// Changes the number of slots. New slot `i` takes over what slot `keep[i]` held; the rest is empty.
    ///
    /// # Errors
    /// When memory does not suffice; no slots exist then.
    pub fn resize(&mut self, slots: usize, keep: &[usize]) -> Result<(), RuntimeError> {
        debug_assert!(keep.len() <= slots);
        let old = self.buffers.take();
        let buffers = SlotBuffers::allocate(&self.session, &mut self.copies, &self.shape, (slots, keep), old);
        self.replay.restart();
        self.release_arena();
        let failed = |source| RuntimeError::Run { graph: "decoder (allocating slots)", rows: slots, source };
        self.buffers = Some(buffers.map_err(failed)?);
        Ok(())
    }

    /// Frees all slots.
    pub fn release(&mut self) {
        self.buffers = None;
        self.release_arena();
    }

    /// Returns freed memory to the device, for other sessions.
    fn release_arena(&mut self) {
        if let Some(Err(error)) = self.copies.as_mut().map(DeviceCopyGraphs::shrink_arena) {
            tracing::warn!(%error, "cannot return freed memory to the GPU");
        }
    }

    /// Loads image `index` of `encoded` into `slot`. Its self-attention cache needs no clearing: positions start at 0.
    ///
    /// # Errors
    /// When there is no such slot or the tensors do not fit.
    pub fn load_image(&mut self, slot: usize, encoded: &Encoded, index: usize) -> Result<(), RuntimeError> {
        self.load_images(&[(slot, index)], encoded)
    }

    /// Loads images of `encoded` into slots, for every pair of slot and index.
    ///
    /// # Errors
    /// As [`Decoder::load_image`].
    pub fn load_images(&mut self, places: &[(usize, usize)], encoded: &Encoded) -> Result<(), RuntimeError> {
        let Some(last) = places.iter().map(|(slot, _)| *slot).max() else { return Ok(()) };
        let buffers = with_slot(&mut self.buffers, last)?;
        match &mut self.copies {
            Some(copies) => copies.load_rows(&mut buffers.cross, &encoded.cross, places),
            None => places.iter().try_for_each(|(slot, index)| {
                let pairs = buffers.cross.iter_mut().zip(&encoded.cross);
                pairs.into_iter().try_for_each(|(to, from)| host::copy_row(to, *slot, from, *index))
            }),
        }
        .map_err(|source| RuntimeError::Run {
            graph: "decoder (loading images)",
            rows: places.len(),
            source,
        })
    }

    /// Runs one step as [`Decoder::run`], and returns the logits `[rows, V]` in host memory.
    ///
    /// # Errors
    /// As [`Decoder::run`].
    pub fn step(&mut self, updates: &[Option<RowUpdate>]) -> Result<&mut [f32], RuntimeError> {
        self.run_graph(updates)?;
        let on_device = self.copies.is_some();
        let buffers = with_slot(&mut self.buffers, 0)?;
        if on_device {
            let failed =
                |source| RuntimeError::Run { graph: "decoder (reading logits)", rows: updates.len(), source };
            return buffers.download_logits().map_err(failed);
        }
        Ok(buffers.logits.extract_tensor_mut().1)
    }

    /// Runs one step of all rows; `updates[i]` is what row `i` reads, `None` leaves it idle. Slot `s` has the rows from
    /// `s * rows_per_slot` on. Returns the logits where they are.
    ///
    /// # Errors
    /// When `updates` does not match the rows, a position lies outside the cache, or the graph fails.
    pub fn run(&mut self, updates: &[Option<RowUpdate>]) -> Result<Logits<'_>, RuntimeError> {
        self.run_graph(updates)?;
        let on_device = self.copies.is_some();
        let buffers = with_slot(&mut self.buffers, 0)?;
        Ok(if on_device {
            Logits::Device(&buffers.logits)
        } else {
            Logits::Host(buffers.logits.extract_tensor_mut().1)
        })
    }

    fn run_graph(&mut self, updates: &[Option<RowUpdate>]) -> Result<(), RuntimeError> {
        let buffers = with_slot(&mut self.buffers, 0)?;
        if updates.len() != buffers.slots * self.shape.rows_per_slot {
            return Err(RuntimeError::Input(format!(
                "{} updates for {} slots of {} rows",
                updates.len(),
                buffers.slots,
                self.shape.rows_per_slot
            )));
        }
        let [ids, positions] = buffers.inputs.each_mut().map(|input| input.extract_tensor_mut().1);
        for (i, update) in updates.iter().enumerate() {
            let update = update.unwrap_or(RowUpdate { id: 0, position: 0 });
            // ONNX Runtime's kernel does not check this, and would write outside the cache.
            if update.position >= self.shape.cache_length {
                return Err(RuntimeError::Input(format!(
                    "position {} is outside the cache of {}",
                    update.position, self.shape.cache_length
                )));
            }
            ids[i] = update.id;
            positions[i] = update.position as i64;
        }
        let failed = |source| RuntimeError::Run { graph: "decoder", rows: updates.len(), source };
        buffers.upload_inputs().map_err(failed)?;
        match self.replay.run(&mut self.session, &buffers.binding) {
            Ok(()) => Ok(()),
            Err(source) if self.replay.is_enabled() => {
                self.disable_cuda_graphs(&failed(source))?;
                let buffers = with_slot(&mut self.buffers, 0)?;
                self.session.run_binding(&buffers.binding).map(drop).map_err(failed)
            }
            Err(source) => Err(failed(source)),
        }
    }

    /// Replaces the session by one without CUDA graphs, over the same slots. The failed step can be repeated: it writes the
    /// same positions of the caches.
    fn disable_cuda_graphs(&mut self, error: &RuntimeError) -> Result<(), RuntimeError> {
        tracing::warn!(%error, "decoding step failed with CUDA graphs; continuing without them");
        self.replay = Replay::new(false);
        self.session = session::create(
            &self.model,
            DECODER_FILE,
            &SessionOptions { cuda_graphs: false, ..self.options },
        )?;
        let Some(buffers) = &mut self.buffers else { return Ok(()) };
        let rows = buffers.slots * self.shape.rows_per_slot;
        buffers.bind(&self.session).map_err(|source| RuntimeError::Run {
            graph: "decoder (binding slots)",
            rows,
            source,
        })
    }

    /// Copies the first `length` positions of row `from`'s caches to row `to`, for every `(from, to, length)`.
    ///
    /// # Errors
    /// When there is no such row or position.
    pub fn copy_caches(&mut self, copies: &[(usize, usize, usize)]) -> Result<(), RuntimeError> {
        if copies.is_empty() {
            return Ok(());
        }
        let rows_per_slot = self.shape.rows_per_slot;
        let buffers = with_slot(&mut self.buffers, 0)?;
        let rows = buffers.slots * rows_per_slot;
        if copies
            .iter()
            .any(|(from, to, length)| (*from).max(*to) >= rows || *length > self.shape.cache_length)
        {
            return Err(RuntimeError::Input(format!("a cache copy leaves the {rows} rows")));
        }
        if let Some(graphs) = &mut self.copies {
            // Positions beyond a row's own length are overwritten before they are read.
            let length = copies.iter().map(|(_, _, length)| *length).max().unwrap_or(0);
            let pairs: Vec<(usize, usize)> = copies.iter().map(|(from, to, _)| (*from, *to)).collect();
            return graphs.copy_rows(&mut buffers.caches, &pairs, length);
        }
        let failed = |source| RuntimeError::Run { graph: "decoder (copying caches)", rows, source };
        buffers.caches.iter_mut().try_for_each(|cache| host::copy_prefixes(cache, copies)).map_err(failed)
    }
}

/// Returns the shapes that the copy graphs are built for.
fn copy_shapes(d: &DecoderDimensions) -> (CrossShape, Vec<CacheShape>) {
    let cache = |i| {
        let (heads, size) = d.cache_heads(i);
        [CacheShape { heads, size }; 2]
    };
    let cross = CrossShape { tensors: 2 * d.decoder_layers, tokens: d.image_tokens, width: d.cross_width() };
    (cross, (0..d.cached_layers()).flat_map(cache).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundled, export, model::Precision, runtime::ImageEncoder};

    /// Logits of seven steps of two rows, with a change of the decoder before the third.
    fn logits(model: &ModelFolder, replays: bool, before_third: impl FnOnce(&mut Decoder)) -> Vec<Vec<f32>> {
        let options = SessionOptions { emulate_device: true, ..SessionOptions::on_cpu(1) };
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

    /// With the run options of CUDA graphs, which the CPU ignores, and after they were disabled in the middle of a caption.
    #[test]
    fn disabling_cuda_graphs_changes_no_logits() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let checkpoint = dir.path().join("checkpoint");
        Bundled::Base.write_checkpoint(&checkpoint).expect("written");
        let model = export(&checkpoint, &dir.path().join("model"), Precision::Fp16).expect("export");
        let want = logits(&model, false, |_| {});
        assert!(want[0] != want[6]);
        assert_eq!(logits(&model, true, |decoder| assert!(decoder.replay.is_enabled())), want);
        let disabled = logits(&model, true, |decoder| {
            let error = RuntimeError::Input("a failed step".into());
            decoder.disable_cuda_graphs(&error).expect("a new session");
            assert!(!decoder.replay.is_enabled());
        });
        assert_eq!(disabled, want);
    }
}
