//! `Encoded -> Candidates`: images into slots, token by token.
//!
//! Nothing waits for a batch to fill: encoded images get slots as these become free. An image on which the decoder fails alone
//! is rejected as `model_error`; when memory runs out, the images in flight begin again in half as many slots.

use std::collections::{HashMap, VecDeque};

use recaption_onnx::{
    caption::{Admission, Generated, Generator, image_seed},
    runtime::RuntimeError,
};

use super::{
    Stop,
    encode::{EncodeStage, EncodedBatch},
    model_error,
};
use recaption_messages::PreparedSample;

/// An image whose captions are generated.
pub struct Captioned {
    /// The sample.
    pub sample: PreparedSample,
    /// Its captions.
    pub generated: Generated,
}

/// What a look for encoded images found.
pub enum Next {
    /// Encoded images, at least one.
    Batch(EncodedBatch),
    /// None now.
    Nothing,
    /// None will come.
    End,
    /// The encoder failed.
    Failed(Stop),
}

/// What stands before and behind the generator.
pub trait Neighbours {
    /// The next encoded images for so many free slots; waits for them if told to.
    fn next(&mut self, room: usize, wait: bool) -> Next;

    /// Takes an image whose captions are done.
    ///
    /// # Errors
    /// When it cannot be handed on; the sample comes back.
    fn hand_on(&mut self, captioned: Captioned) -> Result<(), Stop>;

    /// Finishes what was handed on so far: the generator is going to wait.
    ///
    /// # Errors
    /// When that fails.
    fn flush(&mut self) -> Result<(), Stop>;
}

/// The generator and the images in it.
pub struct GenerateStage<'a> {
    generator: Generator,
    encode: EncodeStage<'a>,
    /// Seed of sampling.
    seed: u64,
    next_ticket: u64,
    in_flight: HashMap<u64, PreparedSample>,
    /// Encoded images without slots.
    waiting: VecDeque<EncodedBatch>,
    /// Images that lost their slots.
    requeued: VecDeque<PreparedSample>,
}

impl<'a> GenerateStage<'a> {
    /// Without images.
    pub fn new(generator: Generator, encode: EncodeStage<'a>, seed: u64) -> Self {
        Self {
            generator,
            encode,
            seed,
            next_ticket: 0,
            in_flight: HashMap::new(),
            waiting: VecDeque::new(),
            requeued: VecDeque::new(),
        }
    }

    /// Generates until no more images come and all are done.
    ///
    /// # Errors
    /// When a model fails on more than single images, or a neighbour ended; unfinished samples come back.
    pub fn run(mut self, neighbours: &mut impl Neighbours) -> Result<(), Stop> {
        let result = self.work(neighbours);
        result.map_err(|stop| {
            let waiting = self.waiting.into_iter().flat_map(|batch| batch.samples);
            stop.with(self.in_flight.into_values().chain(waiting).chain(self.requeued))
        })
    }

    fn work(&mut self, neighbours: &mut impl Neighbours) -> Result<(), Stop> {
        loop {
            if !self.find_images(neighbours)? {
                return neighbours.flush();
            }
            self.place_waiting()?;
            match self.generator.step() {
                Ok(done) => done.into_iter().try_for_each(|generated| self.finish(generated, neighbours))?,
                Err(error) if error.is_out_of_memory() => self.shrink(error, Vec::new())?,
                Err(error) => self.isolate_failing_image(&error, neighbours)?,
            }
        }
    }

    /// Looks for encoded images, unless some wait already; `false` when there is nothing left to do.
    fn find_images(&mut self, neighbours: &mut impl Neighbours) -> Result<bool, Stop> {
        while self.waiting.is_empty() {
            if !self.requeued.is_empty() {
                let count = self.generator.max_slots().min(self.requeued.len());
                let again: Vec<PreparedSample> = self.requeued.drain(..count).collect();
                match self.encode.encode(again) {
                    Ok(batches) => self.waiting.extend(batches),
                    Err(stop) => self.shrink_after(stop)?,
                }
                continue;
            }
            let idle = self.generator.active() == 0;
            if idle {
                // Nothing to do but wait: first finish what is half done.
                neighbours.flush()?;
            }
            match neighbours.next(self.generator.free_slots(), idle) {
                Next::Batch(batch) => self.waiting.push_back(batch),
                Next::Nothing if !idle => break,
                Next::End if !idle => break,
                Next::Nothing => {}
                Next::End => return Ok(false),
                Next::Failed(stop) => self.shrink_after(stop)?,
            }
        }
        Ok(true)
    }

    /// Gives slots to encoded images, as many as there are.
    fn place_waiting(&mut self) -> Result<(), Stop> {
        while let Some(batch) = self.waiting.front_mut() {
            let count = self.generator.free_slots().min(batch.samples.len());
            if count == 0 {
                break;
            }
            let first = self.next_ticket;
            self.next_ticket += count as u64;
            let images: Vec<Admission> = (first..)
                .zip(batch.samples.iter().take(count))
                .map(|(ticket, s)| Admission { ticket, seed: image_seed(self.seed, &s.key) })
                .collect();
            if let Err(error) = self.generator.place(&images, &batch.encoded, batch.placed) {
                self.shrink(error, Vec::new())?;
                break;
            }
            batch.placed += count;
            self.in_flight.extend(images.iter().map(|i| i.ticket).zip(batch.samples.drain(..count)));
            if batch.samples.is_empty() {
                self.waiting.pop_front();
            }
        }
        Ok(())
    }

    fn finish(&mut self, generated: Generated, neighbours: &mut impl Neighbours) -> Result<(), Stop> {
        match self.in_flight.remove(&generated.ticket) {
            Some(sample) => neighbours.hand_on(Captioned { sample, generated }),
            // The grey image of `probe`.
            None => Ok(()),
        }
    }

    /// As [`GenerateStage::shrink`] when the encoder found no memory: the slots may hold it.
    fn shrink_after(&mut self, stop: Stop) -> Result<(), Stop> {
        match stop {
            Stop::Failed(failure) if failure.error.is_out_of_memory() => {
                match self.halve(&failure.error) {
                    true => self.requeued.extend(failure.unfinished),
                    false => return Err(Stop::Failed(failure)),
                }
                Ok(())
            }
            other => Err(other),
        }
    }

    /// Goes on with half the slots after memory ran out; any other error, or one with a single slot, is the end.
    fn shrink(&mut self, error: RuntimeError, unfinished: Vec<PreparedSample>) -> Result<(), Stop> {
        let error = error.into();
        if super::CaptionError::is_out_of_memory(&error) && self.halve(&error) {
            self.requeued.extend(unfinished);
            return Ok(());
        }
        Err(Stop::failed(error, unfinished))
    }

    /// Halves the slots and takes back the images in flight, also those that are encoded: they hold memory too. `false` when
    /// there is but one slot.
    fn halve(&mut self, error: &super::CaptionError) -> bool {
        let Some(tickets) = self.generator.halve_slots() else { return false };
        tracing::warn!(
            images = self.generator.max_slots(),
            %error,
            "memory ran out; going on with half as many images at a time (run.batch_size)"
        );
        self.requeued.extend(tickets.iter().filter_map(|ticket| self.in_flight.remove(ticket)));
        self.requeued.extend(self.waiting.drain(..).flat_map(|batch| batch.samples));
        true
    }

    /// Generates for the images in flight each alone, after a step failed with all of them: the one that is to blame is
    /// rejected.
    fn isolate_failing_image(
        &mut self,
        error: &RuntimeError,
        neighbours: &mut impl Neighbours,
    ) -> Result<(), Stop> {
        let mut suspects: Vec<(u64, PreparedSample)> = Vec::new();
        for ticket in self.generator.reset() {
            suspects.extend(self.in_flight.remove(&ticket).map(|sample| (ticket, sample)));
        }
        suspects.sort_by_key(|(ticket, _)| *ticket);
        tracing::warn!(images = suspects.len(), %error, "the decoder failed on a batch; trying its images one by one");
        let mut suspects: VecDeque<PreparedSample> = suspects.into_iter().map(|(_, sample)| sample).collect();
        while let Some(sample) = suspects.pop_front() {
            if let Err(stop) = self.generate_alone(sample, neighbours) {
                return Err(stop.with(suspects));
            }
        }
        Ok(())
    }

    fn generate_alone(
        &mut self,
        sample: PreparedSample,
        neighbours: &mut impl Neighbours,
    ) -> Result<(), Stop> {
        for mut batch in self.encode.encode(vec![sample])? {
            let Some(sample) = batch.samples.pop_front() else { continue };
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            let admission = Admission { ticket, seed: image_seed(self.seed, &sample.key) };
            if let Err(error) = self.generator.place(&[admission], &batch.encoded, 0) {
                return Err(Stop::failed(error, vec![sample]));
            }
            self.in_flight.insert(ticket, sample);
        }
        while self.generator.active() > 0 {
            match self.generator.step() {
                Ok(done) => done.into_iter().try_for_each(|generated| self.finish(generated, neighbours))?,
                Err(error) if error.is_out_of_memory() => return Err(Stop::failed(error, Vec::new())),
                Err(error) => {
                    let failing = self.generator.reset();
                    // An image is to blame only where another one passes.
                    self.probe(neighbours)?;
                    for sample in failing.iter().filter_map(|ticket| self.in_flight.remove(ticket)) {
                        (self.encode.emit)(model_error(sample, &error))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether encoder and decoder work at all: they are given a grey image.
    fn probe(&mut self, neighbours: &mut impl Neighbours) -> Result<(), Stop> {
        let failed = |error: RuntimeError| Stop::failed(error, Vec::new());
        let encoded = {
            let mut encoder = self.encode.encoder.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let grey = vec![128; encoder.image_bytes()];
            encoder.encode(&grey).map_err(failed)?
        };
        for encoded in encoded {
            self.generator.place(&[Admission { ticket: u64::MAX, seed: 0 }], &encoded, 0).map_err(failed)?;
        }
        while self.generator.active() > 0 {
            for generated in self.generator.step().map_err(failed)? {
                self.finish(generated, neighbours)?;
            }
        }
        Ok(())
    }
}
