//! `Image -> Encoded`: batches of images through the image encoder.
//!
//! Runs on the captioner's thread, or on one of its own beside it. An image on which the encoder fails alone is rejected as
//! `model_error`; nothing else is dropped: what could not be encoded comes back with the error.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use recaption_onnx::{caption::BatchEncoder, runtime::Encoded};

use super::{Emit, Stop, model_error, queue::ImageQueue};
use recaption_messages::PreparedSample;

/// How long an encoder of its own thread waits for a batch to fill: images come one by one, and a GPU wants many.
const LINGER: Duration = Duration::from_millis(5);

/// Encoded images that wait for slots.
pub struct EncodedBatch {
    /// The images from `placed` on, in the order of `encoded`.
    pub samples: VecDeque<PreparedSample>,
    /// All images of the batch.
    pub encoded: Encoded,
    /// How many of them have a slot.
    pub placed: usize,
}

/// The encoder, shared with whoever has to encode an image again.
pub struct EncodeStage<'a> {
    /// The encoder.
    pub encoder: &'a Mutex<BatchEncoder>,
    /// Where outcomes go.
    pub emit: Emit<'a>,
}

impl EncodeStage<'_> {
    /// Encodes samples in as few batches as memory allows.
    ///
    /// # Errors
    /// When the encoder fails on other images too; the samples that are not encoded come back.
    pub fn encode(&self, samples: Vec<PreparedSample>) -> Result<VecDeque<EncodedBatch>, Stop> {
        let pixels: Vec<u8> = samples.iter().flat_map(|sample| sample.pixels.iter().copied()).collect();
        let mut encoder = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match encoder.encode(&pixels) {
            Ok(parts) => {
                let mut samples = samples.into_iter();
                let batch = |encoded: Encoded| EncodedBatch {
                    samples: samples.by_ref().take(encoded.images()).collect(),
                    encoded,
                    placed: 0,
                };
                return Ok(parts.into_iter().map(batch).collect());
            }
            Err(error) => error,
        };
        if error.is_out_of_memory() {
            return Err(Stop::failed(error, samples));
        }
        if samples.len() > 1 {
            drop(encoder);
            return self.encode_apart(samples, &error);
        }
        // An image is to blame only where another one passes.
        if let Err(error) = encoder.probe() {
            return Err(Stop::failed(error, samples));
        }
        for sample in samples {
            (self.emit)(model_error(sample, &error))?;
        }
        Ok(VecDeque::new())
    }

    /// Encodes each sample alone, after the encoder failed on all together.
    fn encode_apart(
        &self,
        samples: Vec<PreparedSample>,
        error: &dyn std::fmt::Display,
    ) -> Result<VecDeque<EncodedBatch>, Stop> {
        tracing::warn!(images = samples.len(), %error, "the image encoder failed on a batch; trying its images one by one");
        let (mut batches, mut rest) = (VecDeque::new(), VecDeque::from(samples));
        while let Some(sample) = rest.pop_front() {
            match self.encode(vec![sample]) {
                Ok(encoded) => batches.extend(encoded),
                Err(stop) => {
                    let encoded = batches.into_iter().flat_map(|batch: EncodedBatch| batch.samples);
                    return Err(stop.with(encoded.chain(rest)));
                }
            }
        }
        Ok(batches)
    }
}

/// Up to `size` images: what is there, after waiting for the first one. `None` when no more will come.
pub fn take_batch(queue: &ImageQueue, size: usize, ended: &AtomicBool) -> Option<Vec<PreparedSample>> {
    let mut batch = vec![queue.take(ended)?];
    let deadline = Instant::now() + LINGER;
    while batch.len() < size {
        match queue.take_within(deadline.saturating_duration_since(Instant::now())) {
            Some(sample) => batch.push(sample),
            None => break,
        }
    }
    Some(batch)
}
