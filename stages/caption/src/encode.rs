//! Batches of images through the image encoder: [`PreparedSample`] to [`EncodedBatch`].
//!
//! Runs on the worker's thread, or on one of its own beside it. An image on which the encoder fails alone is rejected as
//! `model_error`; on any other failure the samples that are not encoded come back with the error.

use std::{
    collections::VecDeque,
    fmt::Display,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use recaption_messages::PreparedSample;
use recaption_onnx::{caption::BatchEncoder, runtime::Encoded};

use crate::{
    counters::CaptionCounters,
    interruption::{Emit, Interruption, model_error},
    queue::ImageQueue,
};

/// Time that an encoder with a thread of its own waits for a batch to fill: images come one by one, and a GPU is efficient with
/// many.
const FILL_TIMEOUT: Duration = Duration::from_millis(5);

/// Encoded images that wait for slots.
pub(crate) struct EncodedBatch {
    /// The images from position `placed` on, in the order of `encoded`.
    pub(crate) samples: VecDeque<PreparedSample>,
    /// The encoder's outputs for all images of the batch.
    pub(crate) encoded: Encoded,
    /// Number of images that have a slot already.
    pub(crate) placed: usize,
}

/// The image encoder, shared by the stage that encodes and the one that encodes images again after a failure.
pub(crate) struct EncodeStage<'a> {
    pub(crate) encoder: &'a Mutex<BatchEncoder>,
    pub(crate) counters: &'a CaptionCounters,
    pub(crate) emit: Emit<'a>,
}

impl EncodeStage<'_> {
    /// Encodes samples in as few batches as memory allows.
    ///
    /// # Errors
    /// Fails when memory runs out, or when the encoder fails on a grey image too; the samples that are not encoded come back.
    pub(crate) fn encode(
        &self,
        samples: Vec<PreparedSample>,
    ) -> Result<VecDeque<EncodedBatch>, Interruption> {
        let pixels: Vec<u8> = samples.iter().flat_map(|sample| sample.pixels.iter().copied()).collect();
        let mut encoder = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let encoded = encoder.encode(&pixels);
        self.counters.image_encoder.observe(began.elapsed());
        let error = match encoded {
            Ok(parts) => {
                self.counters.pixel_bytes.fetch_add(pixels.len() as u64, Relaxed);
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
            return Err(Interruption::failed(error, samples));
        }
        if samples.len() > 1 {
            drop(encoder);
            return self.isolate_failing_image(samples, &error);
        }
        // The image is the cause only if another image succeeds.
        if let Err(error) = encoder.probe() {
            return Err(Interruption::failed(error, samples));
        }
        for sample in samples {
            (self.emit)(model_error(sample, &error))?;
        }
        Ok(VecDeque::new())
    }

    /// Encodes each sample alone after the encoder failed on all together.
    fn isolate_failing_image(
        &self,
        samples: Vec<PreparedSample>,
        error: &dyn Display,
    ) -> Result<VecDeque<EncodedBatch>, Interruption> {
        tracing::warn!(images = samples.len(), %error, "image encoder failed on a batch; encoding its images one by one");
        let (mut batches, mut rest) = (VecDeque::new(), VecDeque::from(samples));
        while let Some(sample) = rest.pop_front() {
            match self.encode(vec![sample]) {
                Ok(encoded) => batches.extend(encoded),
                Err(interruption) => {
                    let encoded = batches.into_iter().flat_map(|batch: EncodedBatch| batch.samples);
                    return Err(interruption.with(encoded.chain(rest)));
                }
            }
        }
        Ok(batches)
    }
}

/// Takes up to `size` images: waits for the first, then [`FILL_TIMEOUT`] for the others. Returns `None` when no more will come
/// or `stop` was set.
pub(crate) fn take_batch(queue: &ImageQueue, size: usize, stop: &AtomicBool) -> Option<Vec<PreparedSample>> {
    let mut batch = vec![queue.recv(stop)?];
    let deadline = Instant::now() + FILL_TIMEOUT;
    while batch.len() < size {
        match queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Some(sample) => batch.push(sample),
            None => break,
        }
    }
    Some(batch)
}
