//! Tokens with continuous batching: a finished image leaves its slot at once and a waiting one takes it, so short captions
//! don't wait for long ones.
//!
//! Stands between `Encoded` and `Candidates`; runs on the one thread that owns it. What bounds it: at most `max_slots` images
//! are in flight, fewer when `cache_bytes` does not hold that many (`slots * Decoder::slot_bytes` is computed before anything
//! is allocated). A slot has [`CaptionSettings::rows_per_image`] rows, which share the image's cross keys and values; it is
//! free when its last row ends, so an image costs its slot as long as its longest chain of candidates. Nothing is dropped
//! here: every image that was placed comes out of [`Generator::step`] once, or out of [`Generator::halve`].

use std::time::{Duration, Instant};

use super::{
    Decoded,
    beam::BeamSearch,
    draws::Draws,
    select::{Answer, Choice, Question, Rules, Selector, answer_all},
    settings::{CaptionSettings, Strategy},
};
use crate::{
    model::{ModelFolder, SpecialIds},
    runtime::{Decoder, Encoded, Logits, RowUpdate, RuntimeError, SessionOptions},
};

/// Encoded batches that are in memory while the slots are full, on a device: one waits for slots while the next is encoded.
const ENCODED_BATCHES: u64 = 2;

/// An image that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The caller's number of it.
    pub ticket: u64,
    /// Seeds its sampled candidates, see [`super::image_seed`].
    pub seed: u64,
}

/// The captions of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// [`Admission::ticket`].
    pub ticket: u64,
    /// At least one. Sampled: in the order of candidate numbers. Beams: best score first.
    pub candidates: Vec<Decoded>,
    /// The image's contrastive embedding, L2-normalised, `[E]`.
    pub image_features: Vec<f32>,
}

/// What the rows of an image need to know.
pub struct Context<'a> {
    /// Start token and prompt.
    pub prefix: &'a [i64],
    /// The model's special ids.
    pub special: SpecialIds,
    /// What is wanted.
    pub settings: &'a CaptionSettings,
}

/// Where a generator's time went since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Decoder.
    pub decode: Duration,
    /// Choosing tokens.
    pub choose: Duration,
    /// Putting images into slots, resizing, copying beams' caches.
    pub copy: Duration,
    /// Rows whose logits left the device, because too many of the largest were equal.
    pub rows_fetched: u64,
}

/// The first positions of a row's caches that go to another row: `(from, to, length)`.
type CacheCopy = (usize, usize, usize);

enum Job {
    Draws(Draws),
    Beam(BeamSearch),
}

struct Slot {
    ticket: u64,
    seed: u64,
    image_features: Vec<f32>,
    job: Job,
}

/// Decoder, choice of tokens, and the rows in between.
pub struct Generator {
    decoder: Decoder,
    rules: Rules,
    /// Chooses tokens where the logits are, when that is not the host.
    selector: Option<Selector>,
    special: SpecialIds,
    prefix: Vec<i64>,
    settings: CaptionSettings,
    max_slots: usize,
    slots: Vec<Option<Slot>>,
    /// Images whose captions were done when the step they were done in failed.
    ready: Vec<Generated>,
    follow_demand: bool,
    refuses: Option<u64>,
    timings: Timings,
}

impl Generator {
    /// Loads the decoder's graph and builds the one that chooses tokens.
    ///
    /// # Errors
    /// When the library or a graph cannot be loaded, the settings do not fit the model, or `cache_bytes` does not hold a
    /// single image.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        settings: CaptionSettings,
    ) -> Result<Self, RuntimeError> {
        settings.validate()?;
        let special = model.spec.special_ids;
        if let Some(id) = settings.prompt.iter().find(|id| **id == special.pad) {
            return Err(RuntimeError::Input(format!(
                "the prompt holds id {id}, which this model reads as padding (`!` in CLIP's vocabulary): leave it out"
            )));
        }
        let decoder = Decoder::load(model, options, settings.cache_length(), settings.rows_per_image())?;
        let batches = if options.memory().is_some() { ENCODED_BATCHES } else { 1 };
        let max_slots = fitting_slots(&decoder, &settings, options.execution.encode_batch(), batches)?;
        let choice = match settings.strategy {
            Strategy::Greedy => Choice::Best(1),
            // So many that enough remain when half of them end.
            Strategy::Beam(beam) => Choice::Best(2 * beam.beams),
            Strategy::Sample(sample) => Choice::Draw(sample),
        };
        let rules = Rules::new(choice, special);
        let select = |_| Selector::load(model, options, rules, settings.cache_length());
        Ok(Self {
            decoder,
            rules,
            selector: options.memory().map(select).transpose()?,
            special,
            prefix: std::iter::once(special.start).chain(settings.prompt.iter().copied()).collect(),
            max_slots,
            settings,
            slots: Vec::new(),
            ready: Vec::new(),
            follow_demand: true,
            refuses: options.refuses,
            timings: Timings::default(),
        })
    }

    /// Images being decoded.
    #[must_use]
    pub fn active(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Most images decoded together: what was set, what fits, and what [`Generator::halve`] left of it.
    #[must_use]
    pub fn max_slots(&self) -> usize {
        self.max_slots
    }

    /// Images that [`Generator::place`] takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.max_slots - self.active()
    }

    /// Where the time went.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Whether slots become fewer when images do, which is the default. Without it finished rows are computed on until the last
    /// one ends: static batching, to measure against.
    pub fn follow_demand(&mut self, follow: bool) {
        self.follow_demand = follow;
    }

    /// Bytes of memory that one image holds while it is decoded.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.decoder.slot_bytes()
    }

    /// Begins the captions of images `first..` of `encoded`, one for every admission.
    ///
    /// # Errors
    /// When there are more images than [`Generator::room`] or than were encoded: then none was placed. When memory for their
    /// slots cannot be had, see [`Generator::halve`].
    pub fn place(
        &mut self,
        images: &[Admission],
        encoded: &Encoded,
        first: usize,
    ) -> Result<(), RuntimeError> {
        if images.len() > self.room() || first + images.len() > encoded.images() {
            return Err(RuntimeError::Input(format!(
                "{} images, from {first} of {} encoded ones, do not fit {} free slots",
                images.len(),
                encoded.images(),
                self.room()
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
            let job = match self.settings.strategy {
                Strategy::Beam(beam) => Job::Beam(BeamSearch::new(beam)),
                Strategy::Greedy | Strategy::Sample(_) => {
                    let rows = self.settings.rows_per_image();
                    Job::Draws(Draws::new(image.seed, rows, self.settings.candidates))
                }
            };
            let image_features = encoded.features_of(*index).to_vec();
            self.slots[*slot] = Some(Slot { ticket: image.ticket, seed: image.seed, image_features, job });
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

    /// Decodes one token of every row; returns the images whose captions are done.
    ///
    /// # Errors
    /// When the decoder fails or yields no numbers; the images in hand are then unfinished.
    pub fn step(&mut self) -> Result<Vec<Generated>, RuntimeError> {
        let active = self.active();
        if active == 0 {
            return Ok(std::mem::take(&mut self.ready));
        }
        let began = Instant::now();
        // Empty slots cost as much as full ones; half of them empty means that no more images came.
        if self.follow_demand
            && active.next_power_of_two() < self.slots.len()
            && 2 * active <= self.slots.len()
        {
            self.resize(active)?;
        }
        self.timings.copy += began.elapsed();
        if self.refuses.is_some_and(|seed| self.slots.iter().flatten().any(|slot| slot.seed == seed)) {
            return Err(RuntimeError::Input("an image is refused, as the test wants it".into()));
        }
        let (inputs, questions) = self.ask();
        let began = Instant::now();
        let logits = self.decoder.run(&inputs)?;
        self.timings.decode += began.elapsed();
        let began = Instant::now();
        let answers = match (logits, &mut self.selector) {
            (Logits::Host(logits), _) => answer_all(logits, &questions, &self.rules)?,
            (Logits::Device(logits), Some(selector)) => {
                let answers = selector.answer_all(logits, &questions)?;
                self.timings.rows_fetched = selector.fetched();
                answers
            }
            (Logits::Device(_), None) => {
                return Err(RuntimeError::Input("logits are on a device, and nothing chooses there".into()));
            }
        };
        self.timings.choose += began.elapsed();
        let (done, copies) = self.advance(&inputs, &answers)?;
        // Kept first: what is done must not be lost when the copies of others fail.
        self.ready.extend(done);
        let began = Instant::now();
        self.decoder.copy_caches(&copies)?;
        self.timings.copy += began.elapsed();
        Ok(std::mem::take(&mut self.ready))
    }

    /// What every row reads next and what it asks about the logits; `None` for rows that are idle.
    fn ask(&self) -> (Vec<Option<RowUpdate>>, Vec<Option<Question>>) {
        let rows = self.settings.rows_per_image();
        let context = self.context();
        let mut inputs: Vec<Option<RowUpdate>> = Vec::with_capacity(self.slots.len() * rows);
        let mut questions = Vec::with_capacity(self.slots.len() * rows);
        for slot in &self.slots {
            match slot.as_ref().map(|slot| &slot.job) {
                None => {
                    inputs.resize(inputs.len() + rows, None);
                    questions.resize(questions.len() + rows, None);
                }
                Some(Job::Draws(draws)) => {
                    draws.inputs(&self.prefix, &mut inputs);
                    draws.questions(&context, &mut questions);
                }
                Some(Job::Beam(beam)) => {
                    beam.inputs(&self.prefix, &mut inputs);
                    beam.questions(&context, &mut questions);
                }
            }
        }
        (inputs, questions)
    }

    fn context(&self) -> Context<'_> {
        Context { prefix: &self.prefix, special: self.special, settings: &self.settings }
    }

    /// Gives every row its answer; returns images that are done, and caches to be copied.
    fn advance(
        &mut self,
        inputs: &[Option<RowUpdate>],
        answers: &[Answer],
    ) -> Result<(Vec<Generated>, Vec<CacheCopy>), RuntimeError> {
        let rows = self.settings.rows_per_image();
        let context = Context { prefix: &self.prefix, special: self.special, settings: &self.settings };
        let (mut done, mut copies, mut moves) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (place, answers)) in self.slots.iter_mut().zip(answers.chunks_exact(rows)).enumerate() {
            let Some(slot) = place else { continue };
            let over = match &mut slot.job {
                Job::Draws(draws) => draws.advance(answers, &context)?,
                Job::Beam(beam) => beam.advance(answers, &context, &mut moves)?,
            };
            let read = inputs[index * rows..][..rows].iter().flatten().next();
            let length = read.map_or(0, |input| input.position + 1);
            copies.extend(
                moves
                    .drain(..)
                    .filter(|_| !over)
                    .map(|(from, to)| (index * rows + from, index * rows + to, length)),
            );
            if over && let Some(slot) = place.take() {
                done.push(slot.finish(self.settings.candidates));
            }
        }
        Ok((done, copies))
    }

    /// Forgets all images in hand, after an error; returns their tickets.
    pub fn reset(&mut self) -> Vec<u64> {
        self.slots.iter_mut().filter_map(|slot| slot.take().map(|slot| slot.ticket)).collect()
    }

    /// Makes do with half the slots, after memory ran out: frees all of them and returns the tickets of the images in hand,
    /// which begin anew when they are admitted again. `None` when there is but one slot: nothing was changed then.
    pub fn halve(&mut self) -> Option<Vec<u64>> {
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

/// Slots that `cache_bytes` hold, at most those that are wanted: each has its caches, and so many encoded batches wait for
/// slots with their cross keys and values.
fn fitting_slots(
    decoder: &Decoder,
    settings: &CaptionSettings,
    encode_batch: usize,
    batches: u64,
) -> Result<usize, RuntimeError> {
    let (slot, cross) = (decoder.slot_bytes() as u64, batches * decoder.cross_bytes() as u64);
    let batch = encode_batch.min(settings.max_slots) as u64;
    let fitting = if settings.cache_bytes / batch >= slot + cross {
        (settings.cache_bytes - batch * cross) / slot
    } else {
        settings.cache_bytes / (slot + cross)
    };
    if fitting == 0 {
        return Err(RuntimeError::Input(format!(
            "one image needs {:.1} MB for its {} rows of caches and its cross-attention keys and values, {:.1} MB are allowed (run.cache_bytes, divided by the copies of the model): allow more, or fewer beams, candidates or tokens",
            (slot + cross) as f64 / 1e6,
            settings.rows_per_image(),
            settings.cache_bytes as f64 / 1e6
        )));
    }
    let slots = settings.max_slots.min(usize::try_from(fitting).unwrap_or(usize::MAX));
    if slots < settings.max_slots {
        tracing::info!(
            images = slots,
            wanted = settings.max_slots,
            "run.cache_bytes holds fewer images than run.batch_size"
        );
    }
    Ok(slots)
}

impl Slot {
    fn finish(self, candidates: usize) -> Generated {
        let candidates = match self.job {
            Job::Draws(draws) => draws.finish(),
            Job::Beam(beam) => beam.finish(candidates),
        };
        Generated { ticket: self.ticket, candidates, image_features: self.image_features }
    }
}
