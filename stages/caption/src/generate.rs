//! Tokens for encoded images: [`EncodedBatch`] to [`CaptionedImage`].
//!
//! Batching is continuous: an encoded image gets a slot as soon as one is free, and nothing waits for a batch to fill. An image
//! on which the decoder fails alone is rejected as `model_error`. When memory runs out, the images in flight are requeued and
//! begin again with half the slots, until one slot is too many.

use std::{
    collections::{HashMap, VecDeque},
    sync::{PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};

use recaption_messages::PreparedSample;
use recaption_onnx::{
    caption::{Admission, Generated, Generator, image_seed},
    runtime::RuntimeError,
};

use crate::{
    encode::{EncodeStage, EncodedBatch},
    error::CaptionError,
    interruption::{Interruption, model_error},
};

/// Value of every channel of every pixel of the probe image.
const PROBE_GREY: u8 = 128;
/// Ticket of the probe image; no sample has it.
const PROBE_TICKET: u64 = u64::MAX;

/// An image whose tokens are generated.
pub(crate) struct CaptionedImage {
    pub(crate) sample: PreparedSample,
    /// The candidates' ids and log-probabilities, and the captioner's image features.
    pub(crate) generated: Generated,
}

/// Answer of [`StageLinks::next_batch`].
pub(crate) enum NextBatch {
    /// Encoded images, at least one.
    Ready(EncodedBatch),
    /// No images now.
    Pending,
    /// No more images will come.
    Finished,
    /// The encoder ended early.
    Interrupted(Interruption),
}

/// The stages before and behind the generator: on the same thread, or on threads of their own.
pub(crate) trait StageLinks {
    /// Returns the next encoded images, of which `free_slots` can be placed at once; waits for them if `wait` is set.
    fn next_batch(&mut self, free_slots: usize, wait: bool) -> NextBatch;

    /// Passes an image with its captions to the scorer.
    ///
    /// # Errors
    /// Fails when the scorer has ended; the sample comes back.
    fn send(&mut self, captioned: CaptionedImage) -> Result<(), Interruption>;

    /// Finishes the images that were sent so far, since the generator is about to wait.
    ///
    /// # Errors
    /// Fails when the scorer fails; the samples come back.
    fn flush(&mut self) -> Result<(), Interruption>;
}

/// The generator and the images in it.
pub(crate) struct GenerateStage<'a> {
    generator: Generator,
    encode: EncodeStage<'a>,
    /// Seed of sampling.
    seed: u64,
    next_ticket: u64,
    /// Images that have a slot, by ticket.
    in_flight: HashMap<u64, PreparedSample>,
    /// Encoded images without a slot.
    awaiting_slots: VecDeque<EncodedBatch>,
    /// Images that lost their slot when memory ran out; they are encoded again.
    requeued: VecDeque<PreparedSample>,
}

impl<'a> GenerateStage<'a> {
    /// Creates the stage without images.
    pub(crate) fn new(generator: Generator, encode: EncodeStage<'a>, seed: u64) -> Self {
        Self {
            generator,
            encode,
            seed,
            next_ticket: 0,
            in_flight: HashMap::new(),
            awaiting_slots: VecDeque::new(),
            requeued: VecDeque::new(),
        }
    }

    /// Generates until no more images come and all are captioned.
    ///
    /// # Errors
    /// Fails when a model fails on more than single images, or a linked stage ended; the unfinished samples come back.
    pub(crate) fn run(mut self, links: &mut impl StageLinks) -> Result<(), Interruption> {
        let result = self.generate_all(links);
        result.map_err(|interruption| {
            let encoded = self.awaiting_slots.into_iter().flat_map(|batch| batch.samples);
            interruption.with(self.in_flight.into_values().chain(encoded).chain(self.requeued))
        })
    }

    fn generate_all(&mut self, links: &mut impl StageLinks) -> Result<(), Interruption> {
        loop {
            if !self.find_images(links)? {
                return links.flush();
            }
            self.place_images()?;
            match self.step() {
                Ok(done) => done.into_iter().try_for_each(|generated| self.send(generated, links))?,
                Err(error) if error.is_out_of_memory() => self.shrink_or_fail(error)?,
                Err(error) => self.isolate_failing_image(&error, links)?,
            }
        }
    }

    /// Generates one token of every row.
    fn step(&mut self) -> Result<Vec<Generated>, RuntimeError> {
        let slots = (self.generator.active(), self.generator.max_slots());
        let is_starved = self.awaiting_slots.is_empty() && self.requeued.is_empty();
        let began = Instant::now();
        let done = self.generator.step();
        self.encode.counters.count_step(began.elapsed(), slots, is_starved);
        done
    }

    /// Finds encoded images unless some wait already; returns `false` when there is nothing left to do.
    fn find_images(&mut self, links: &mut impl StageLinks) -> Result<bool, Interruption> {
        while self.awaiting_slots.is_empty() {
            if !self.requeued.is_empty() {
                let count = self.generator.max_slots().min(self.requeued.len());
                let requeued: Vec<PreparedSample> = self.requeued.drain(..count).collect();
                match self.encode.encode(requeued) {
                    Ok(batches) => self.awaiting_slots.extend(batches),
                    Err(interruption) => self.shrink_after_encoder(interruption)?,
                }
                continue;
            }
            let is_idle = self.generator.active() == 0;
            if is_idle {
                // The generator is about to wait: captions that wait for a group to fill are scored first.
                links.flush()?;
            }
            match links.next_batch(self.generator.free_slots(), is_idle) {
                NextBatch::Ready(batch) => self.awaiting_slots.push_back(batch),
                NextBatch::Pending | NextBatch::Finished if !is_idle => break,
                NextBatch::Pending => {}
                NextBatch::Finished => return Ok(false),
                NextBatch::Interrupted(interruption) => self.shrink_after_encoder(interruption)?,
            }
        }
        Ok(true)
    }

    /// Places encoded images into free slots, as many as there are.
    fn place_images(&mut self) -> Result<(), Interruption> {
        while let Some(batch) = self.awaiting_slots.front_mut() {
            let count = self.generator.free_slots().min(batch.samples.len());
            if count == 0 {
                break;
            }
            let first = self.next_ticket;
            self.next_ticket += count as u64;
            let images: Vec<Admission> = (first..)
                .zip(batch.samples.iter().take(count))
                .map(|(ticket, sample)| Admission { ticket, seed: image_seed(self.seed, &sample.key) })
                .collect();
            if let Err(error) = self.generator.place(&images, &batch.encoded, batch.placed) {
                self.shrink_or_fail(error)?;
                break;
            }
            batch.placed += count;
            self.in_flight.extend(images.iter().map(|i| i.ticket).zip(batch.samples.drain(..count)));
            if batch.samples.is_empty() {
                self.awaiting_slots.pop_front();
            }
        }
        Ok(())
    }

    /// Passes a finished image on.
    fn send(&mut self, generated: Generated, links: &mut impl StageLinks) -> Result<(), Interruption> {
        match self.in_flight.remove(&generated.ticket) {
            Some(sample) => {
                let tokens: usize = generated.candidates.iter().map(|candidate| candidate.ids.len()).sum();
                self.encode.counters.tokens.fetch_add(tokens as u64, Relaxed);
                links.send(CaptionedImage { sample, generated })
            }
            // The probe image.
            None => Ok(()),
        }
    }

    /// Shrinks the batch after the encoder ran out of memory, since the slots may hold it; otherwise passes the interruption on.
    fn shrink_after_encoder(&mut self, interruption: Interruption) -> Result<(), Interruption> {
        match interruption {
            Interruption::Failed(failure)
                if failure.error.is_out_of_memory() && self.shrink_batch(&failure.error) =>
            {
                self.requeued.extend(failure.unfinished);
                Ok(())
            }
            other => Err(other),
        }
    }

    /// Shrinks the batch if the decoder ran out of memory and can be shrunk; otherwise fails.
    fn shrink_or_fail(&mut self, error: RuntimeError) -> Result<(), Interruption> {
        let error = CaptionError::from(error);
        if error.is_out_of_memory() && self.shrink_batch(&error) {
            return Ok(());
        }
        Err(Interruption::failed(error, Vec::new()))
    }

    /// Halves the slots and requeues the images in flight and those that are encoded, which hold memory too. Returns `false`,
    /// and changes nothing, when there is but one slot.
    fn shrink_batch(&mut self, error: &CaptionError) -> bool {
        let Some(tickets) = self.generator.halve_slots() else { return false };
        tracing::warn!(slots = self.generator.max_slots(), %error, "out of memory; continuing with half the slots");
        self.requeued.extend(tickets.iter().filter_map(|ticket| self.in_flight.remove(ticket)));
        self.requeued.extend(self.awaiting_slots.drain(..).flat_map(|batch| batch.samples));
        true
    }

    /// Generates for each image in flight alone after a step failed with all of them, and rejects the one that causes it.
    fn isolate_failing_image(
        &mut self,
        error: &RuntimeError,
        links: &mut impl StageLinks,
    ) -> Result<(), Interruption> {
        let mut suspects: Vec<(u64, PreparedSample)> = Vec::new();
        for ticket in self.generator.reset() {
            suspects.extend(self.in_flight.remove(&ticket).map(|sample| (ticket, sample)));
        }
        suspects.sort_by_key(|(ticket, _)| *ticket);
        tracing::warn!(images = suspects.len(), %error, "decoder failed on a batch; generating for its images one by one");
        let mut suspects: VecDeque<PreparedSample> = suspects.into_iter().map(|(_, sample)| sample).collect();
        while let Some(sample) = suspects.pop_front() {
            if let Err(interruption) = self.generate_alone(sample, links) {
                return Err(interruption.with(suspects));
            }
        }
        Ok(())
    }

    fn generate_alone(
        &mut self,
        sample: PreparedSample,
        links: &mut impl StageLinks,
    ) -> Result<(), Interruption> {
        for mut batch in self.encode.encode(vec![sample])? {
            let Some(sample) = batch.samples.pop_front() else { continue };
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            let admission = Admission { ticket, seed: image_seed(self.seed, &sample.key) };
            if let Err(error) = self.generator.place(&[admission], &batch.encoded, 0) {
                return Err(Interruption::failed(error, vec![sample]));
            }
            self.in_flight.insert(ticket, sample);
        }
        while self.generator.active() > 0 {
            match self.step() {
                Ok(done) => done.into_iter().try_for_each(|generated| self.send(generated, links))?,
                Err(error) if error.is_out_of_memory() => {
                    return Err(Interruption::failed(error, Vec::new()));
                }
                Err(error) => {
                    let failing = self.generator.reset();
                    // The image is the cause only if another image succeeds.
                    self.probe(links)?;
                    for sample in failing.iter().filter_map(|ticket| self.in_flight.remove(ticket)) {
                        (self.encode.emit)(model_error(sample, &error))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Captions a grey image, which fails if encoder or decoder fail on any image.
    fn probe(&mut self, links: &mut impl StageLinks) -> Result<(), Interruption> {
        let failed = |error: RuntimeError| Interruption::failed(error, Vec::new());
        let encoded = {
            let mut encoder = self.encode.encoder.lock().unwrap_or_else(PoisonError::into_inner);
            let grey = vec![PROBE_GREY; encoder.image_bytes()];
            encoder.encode(&grey).map_err(failed)?
        };
        for encoded in encoded {
            let admission = Admission { ticket: PROBE_TICKET, seed: 0 };
            self.generator.place(&[admission], &encoded, 0).map_err(failed)?;
        }
        while self.generator.active() > 0 {
            for generated in self.generator.step().map_err(failed)? {
                self.send(generated, links)?;
            }
        }
        Ok(())
    }
}
