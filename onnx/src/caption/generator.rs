//! Token generation with continuous batching: a finished image leaves its slot at once and a waiting one takes it, so that
//! short captions do not wait for long ones.
//!
//! Stands between `Encoded` and `Generated`; runs on the one thread that owns it. At most `max_slots` images are in flight,
//! fewer when `cache_bytes` does not hold that many. A slot has [`CaptionSettings::rows_per_image`] rows, which share the
//! image's cross-attention keys and values; it is free when its last row has finished. Nothing is dropped here: every image
//! that was placed comes out of [`Generator::step`] once, or is returned by [`Generator::halve_slots`] or
//! [`Generator::reset`].

use std::time::Instant;

use super::{
    capacity::SlotMemory,
    context::RowContext,
    generated::{Admission, Generated, Timings},
    settings::{CaptionSettings, Strategy},
    slot::Slot,
    slot_decoder::SlotDecoder,
    token_selection::{LogitsRequest, SelectionConfig, Selector, TokenSelection, TopTokens, select_on_host},
};
use crate::{
    model::{GenerationRules, ModelFolder, SpecialIds},
    runtime::{Decoder, Encoded, Logits, RowUpdate, RuntimeError, SessionOptions},
};

/// The first positions of a row's caches that are copied to another row: `(from, to, length)`.
type CacheCopy = (usize, usize, usize);

/// A decoder, token selection, and the rows in between.
#[derive(Debug)]
pub struct Generator {
    decoder: Box<dyn SlotDecoder>,
    selection: SelectionConfig,
    /// Selects tokens on the device; `None` where logits are in host memory.
    selector: Option<Selector>,
    special: SpecialIds,
    rules: GenerationRules,
    prefix: Vec<i64>,
    settings: CaptionSettings,
    max_slots: usize,
    slots: Vec<Option<Slot>>,
    /// Images that finished in a step that failed afterwards.
    finished: Vec<Generated>,
    shrink_when_idle: bool,
    timings: Timings,
}

impl Generator {
    /// Loads the decoder's graph and, on a device, the one that selects tokens.
    ///
    /// # Errors
    /// When the library or a graph cannot be loaded, the settings do not fit the model, or `cache_bytes` does not hold a
    /// single image.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        settings: CaptionSettings,
    ) -> Result<Self, RuntimeError> {
        Self::load_with_rules(model, options, settings, model.spec.architecture.generation_rules())
    }

    /// Loads as [`Generator::load`] does, for captions that follow other rules than the model's.
    ///
    /// # Errors
    /// As [`Generator::load`].
    pub(crate) fn load_with_rules(
        model: &ModelFolder,
        options: &SessionOptions,
        settings: CaptionSettings,
        rules: GenerationRules,
    ) -> Result<Self, RuntimeError> {
        settings.validate()?;
        let special = model.spec.special_ids;
        if let Some(id) = settings.prompt.iter().find(|id| **id == special.pad) {
            return Err(RuntimeError::Input(format!(
                "the prompt contains id {id}, which this model reads as padding (`!` in CLIP's vocabulary): remove it"
            )));
        }
        let max_slots = SlotMemory::of(model, options, &settings)?.slots;
        if max_slots < settings.max_slots {
            tracing::info!(
                images = max_slots,
                requested = settings.max_slots,
                "cache_bytes holds fewer images than batch_size"
            );
        }
        let decoder = Decoder::load(model, options, settings.cache_length(), settings.rows_per_image())?;
        let selection = match settings.strategy {
            Strategy::Greedy => TokenSelection::Best(1),
            // Enough remain even if half of them are end tokens.
            Strategy::Beam(beam) => TokenSelection::Best(2 * beam.beams),
            Strategy::Sample(sample) => TokenSelection::Sample(sample),
        };
        let selection = SelectionConfig::new(selection, special, rules);
        let select = |_| Selector::load(model, options, selection, settings.cache_length());
        Ok(Self {
            decoder: Box::new(decoder),
            selection,
            selector: options.memory().map(select).transpose()?,
            special,
            rules,
            prefix: std::iter::once(special.start).chain(settings.prompt.iter().copied()).collect(),
            max_slots,
            settings,
            slots: Vec::new(),
            finished: Vec::new(),
            shrink_when_idle: true,
            timings: Timings::default(),
        })
    }

    /// Replaces the decoder by what `wrap` makes of it. Call it before images are placed.
    #[must_use]
    pub fn map_decoder(mut self, wrap: impl FnOnce(Box<dyn SlotDecoder>) -> Box<dyn SlotDecoder>) -> Self {
        self.decoder = wrap(self.decoder);
        self
    }

    /// Returns the number of images in flight.
    #[must_use]
    pub fn active(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Returns the largest number of images in flight: what was set and fits, less what [`Generator::halve_slots`] took.
    #[must_use]
    pub fn max_slots(&self) -> usize {
        self.max_slots
    }

    /// Returns how many images [`Generator::place`] takes now.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.max_slots - self.active()
    }

    /// Returns where the time went.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Sets whether slots are removed when fewer images are in flight; on by default. Without it finished rows are
    /// computed until the last one ends: static batching, as a baseline for measurements.
    pub fn shrink_when_idle(&mut self, shrink: bool) {
        self.shrink_when_idle = shrink;
    }

    /// Returns the bytes of memory that one image in flight holds.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.decoder.slot_bytes()
    }

    /// Starts the captions of images `first..first + images.len()` of `encoded`.
    ///
    /// # Errors
    /// When there are more images than [`Generator::free_slots`] or than were encoded: none is placed then. When memory
    /// for their slots does not suffice, see [`Generator::halve_slots`].
    pub fn place(
        &mut self,
        images: &[Admission],
        encoded: &Encoded,
        first: usize,
    ) -> Result<(), RuntimeError> {
        if images.len() > self.free_slots() || first + images.len() > encoded.images() {
            return Err(RuntimeError::Input(format!(
                "{} images, from {first} of {} encoded ones, do not fit {} free slots",
                images.len(),
                encoded.images(),
                self.free_slots()
            )));
        }
        if images.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let needed = self.active() + images.len();
        if needed > self.slots.len() {
            self.resize(needed)?;
        }
        let free = (0..self.slots.len()).filter(|slot| self.slots[*slot].is_none());
        let places: Vec<(usize, usize)> = free.zip(first..first + images.len()).collect();
        self.decoder.load_images(&places, encoded)?;
        for ((slot, index), image) in places.iter().zip(images) {
            let features = encoded.features_of(*index).to_vec();
            self.slots[*slot] = Some(Slot::new(image, features, &self.settings));
        }
        self.timings.copy += began.elapsed();
        Ok(())
    }

    /// Brings the number of slots to a power of two that holds `needed`, within the maximum.
    fn resize(&mut self, needed: usize) -> Result<(), RuntimeError> {
        let size = needed.next_power_of_two().min(self.max_slots);
        let keep: Vec<usize> = (0..self.slots.len()).filter(|i| self.slots[*i].is_some()).collect();
        self.decoder.resize(size, &keep)?;
        let mut kept: Vec<Option<Slot>> = self.slots.drain(..).filter(Option::is_some).collect();
        kept.resize_with(size, || None);
        self.slots = kept;
        Ok(())
    }

    /// Generates one token of every row; returns the images that are finished.
    ///
    /// # Errors
    /// When the decoder fails or its logits are not finite; the images in flight are then unfinished.
    pub fn step(&mut self) -> Result<Vec<Generated>, RuntimeError> {
        let active = self.active();
        if active == 0 {
            return Ok(std::mem::take(&mut self.finished));
        }
        let began = Instant::now();
        // Empty slots cost as much as occupied ones; when half of them are empty, no more images are coming.
        if self.shrink_when_idle
            && active.next_power_of_two() < self.slots.len()
            && 2 * active <= self.slots.len()
        {
            self.resize(active)?;
        }
        self.timings.copy += began.elapsed();
        let (inputs, requests) = self.next_step();
        let tokens = self.run(&inputs, &requests)?;
        let (finished, copies) = self.advance(&inputs, &tokens)?;
        // Stored first: finished images must not be lost when the copies of others fail.
        self.finished.extend(finished);
        let began = Instant::now();
        self.decoder.copy_caches(&copies)?;
        self.timings.copy += began.elapsed();
        Ok(std::mem::take(&mut self.finished))
    }

    /// Runs the decoder and selects tokens from its logits, for all rows.
    fn run(
        &mut self,
        inputs: &[Option<RowUpdate>],
        requests: &[Option<LogitsRequest>],
    ) -> Result<Vec<TopTokens>, RuntimeError> {
        let began = Instant::now();
        let logits = self.decoder.run(inputs)?;
        self.timings.decode += began.elapsed();
        let began = Instant::now();
        let tokens = match (logits, &mut self.selector) {
            (Logits::Host(logits), _) => select_on_host(logits, requests, &self.selection)?,
            (Logits::Device(logits), Some(selector)) => {
                let tokens = selector.select(logits, requests)?;
                self.timings.rows_fetched = selector.rows_fetched();
                tokens
            }
            (Logits::Device(_), None) => {
                return Err(RuntimeError::Input(
                    "internal error: logits are on a device without a selection graph".into(),
                ));
            }
        };
        self.timings.select += began.elapsed();
        Ok(tokens)
    }

    /// Returns what all rows have in common.
    fn context(&self) -> RowContext<'_> {
        RowContext {
            prefix: &self.prefix,
            special: self.special,
            rules: self.rules,
            settings: &self.settings,
        }
    }

    /// Returns what every row reads next and requests of its logits; `None` for idle rows.
    fn next_step(&self) -> (Vec<Option<RowUpdate>>, Vec<Option<LogitsRequest>>) {
        let rows = self.settings.rows_per_image();
        let context = self.context();
        let mut inputs: Vec<Option<RowUpdate>> = Vec::with_capacity(self.slots.len() * rows);
        let mut requests = Vec::with_capacity(self.slots.len() * rows);
        for slot in &self.slots {
            match slot {
                None => {
                    inputs.resize(inputs.len() + rows, None);
                    requests.resize(requests.len() + rows, None);
                }
                Some(slot) => slot.append_step(&context, &mut inputs, &mut requests),
            }
        }
        (inputs, requests)
    }

    /// Gives every row its tokens; returns finished images, and caches to be copied.
    fn advance(
        &mut self,
        inputs: &[Option<RowUpdate>],
        tokens: &[TopTokens],
    ) -> Result<(Vec<Generated>, Vec<CacheCopy>), RuntimeError> {
        let rows = self.settings.rows_per_image();
        let context = RowContext {
            prefix: &self.prefix,
            special: self.special,
            rules: self.rules,
            settings: &self.settings,
        };
        let (mut finished, mut copies, mut moves) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (place, tokens)) in self.slots.iter_mut().zip(tokens.chunks_exact(rows)).enumerate() {
            let Some(slot) = place else { continue };
            let is_finished = slot.advance(tokens, &context, &mut moves)?;
            let read = inputs[index * rows..][..rows].iter().flatten().next();
            let length = read.map_or(0, |input| input.position + 1);
            let moved = moves.drain(..).filter(|_| !is_finished);
            copies.extend(moved.map(|(from, to)| (index * rows + from, index * rows + to, length)));
            if is_finished && let Some(slot) = place.take() {
                finished.push(slot.finish(self.settings.candidates));
            }
        }
        Ok((finished, copies))
    }

    /// Removes all images in flight, after an error; returns their tickets.
    pub fn reset(&mut self) -> Vec<u64> {
        self.slots.iter_mut().filter_map(|slot| slot.take().map(|slot| slot.ticket)).collect()
    }

    /// Halves [`Generator::max_slots`] after memory ran out: frees all slots and returns the tickets of the images that
    /// were in flight, whose captions start over when they are placed again. Returns `None`, and changes nothing, when
    /// there is only one slot.
    pub fn halve_slots(&mut self) -> Option<Vec<u64>> {
        if self.max_slots == 1 {
            return None;
        }
        self.max_slots /= 2;
        let tickets = self.reset();
        self.slots.clear();
        self.decoder.release();
        Some(tickets)
    }
}
