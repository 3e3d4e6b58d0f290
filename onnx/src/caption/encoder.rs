//! `Image -> Encoded`: images through the image encoder, in batches that fit into memory.

use std::time::{Duration, Instant};

use crate::{
    model::ModelFolder,
    runtime::{Encoded, ImageEncoder, RuntimeError, SessionOptions},
};

/// An image encoder that encodes several images per call, fewer once memory has run out.
#[derive(Debug)]
pub struct BatchEncoder {
    encoder: ImageEncoder,
    /// Images per call, at most.
    batch: usize,
    time: Duration,
}

impl BatchEncoder {
    /// Loads the graph.
    ///
    /// # Errors
    /// When the library or the graph cannot be loaded.
    pub fn load(model: &ModelFolder, options: &SessionOptions) -> Result<Self, RuntimeError> {
        let batch = options.execution.encode_batch(model);
        Ok(Self { encoder: ImageEncoder::load(model, options)?, batch, time: Duration::ZERO })
    }

    /// Returns the number of images per call, at most.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Returns the bytes of one image's pixels, `S * S * 3`.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.encoder.image_bytes()
    }

    /// Returns the time spent in the encoder.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Encodes images, u8 RGB `[N, S, S, 3]`, in one call or several. When memory runs out, the batch is halved for
    /// all later calls too.
    ///
    /// # Errors
    /// When `pixels` is not a whole number of images, the graph fails, or memory does not suffice for one image.
    pub fn encode(&mut self, pixels: &[u8]) -> Result<Vec<Encoded>, RuntimeError> {
        let began = Instant::now();
        let (mut encoded, mut rest) = (Vec::new(), pixels);
        while !rest.is_empty() || encoded.is_empty() {
            let bytes = self.batch.saturating_mul(self.image_bytes()).min(rest.len());
            match self.encoder.encode(&rest[..bytes]) {
                Ok(part) => {
                    encoded.push(part);
                    rest = &rest[bytes..];
                }
                Err(error) if error.is_out_of_memory() && bytes > self.image_bytes() => {
                    self.batch = bytes / self.image_bytes() / 2;
                    tracing::warn!(images = self.batch, %error, "out of memory; halved the image encoder's batch");
                }
                Err(error) => return Err(error),
            }
        }
        self.time += began.elapsed();
        Ok(encoded)
    }

    /// Encodes a grey image, to check whether the encoder works at all.
    ///
    /// # Errors
    /// The encoder's error.
    pub fn probe(&mut self) -> Result<(), RuntimeError> {
        let grey = vec![128; self.image_bytes()];
        self.encoder.encode(&grey).map(drop)
    }
}
