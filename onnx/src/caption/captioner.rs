//! Images to captions on one thread: an image encoder in front of a [`Generator`].
//!
//! Stands between `Image` and `Candidates`. A program that encodes on another thread takes the two apart
//! ([`Captioner::into_parts`]).

use std::time::{Duration, Instant};

use super::{
    generator::{Admission, Generated, Generator, Timings},
    settings::CaptionSettings,
};
use crate::{
    model::ModelFolder,
    runtime::{Encoded, ImageEncoder, RuntimeError, SessionOptions},
};

/// An image encoder that encodes as many images together as are worth it and fit into memory.
pub struct BatchEncoder {
    encoder: ImageEncoder,
    /// Images encoded together, at most; less after memory ran out.
    batch: usize,
    time: Duration,
}

impl BatchEncoder {
    /// Loads the graph.
    ///
    /// # Errors
    /// When the library or the graph cannot be loaded.
    pub fn load(model: &ModelFolder, options: &SessionOptions) -> Result<Self, RuntimeError> {
        // The host's memory takes any number; on a device memory is short.
        let batch = if options.memory().is_some() { options.execution.encode_batch() } else { usize::MAX };
        Ok(Self { encoder: ImageEncoder::load(model, options)?, batch, time: Duration::ZERO })
    }

    /// Images encoded together, at most.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes of one image's pixels, `S * S * 3`.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.encoder.image_bytes()
    }

    /// Time spent in the encoder.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Encodes images, u8 RGB `[N, S, S, 3]`, in one call or several. Memory that runs out halves the batch, for good.
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
                    tracing::warn!(
                        images = self.batch,
                        %error,
                        "memory ran out; going on with half as many images per call of the encoder"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        self.time += began.elapsed();
        Ok(encoded)
    }

    /// Whether the encoder works at all: it is given a grey image.
    ///
    /// # Errors
    /// The encoder's error.
    pub fn probe(&mut self) -> Result<(), RuntimeError> {
        let grey = vec![128; self.image_bytes()];
        self.encoder.encode(&grey).map(drop)
    }
}

/// Image encoder and generator.
pub struct Captioner {
    encoder: BatchEncoder,
    generator: Generator,
}

impl Captioner {
    /// Loads both graphs.
    ///
    /// # Errors
    /// When the library or a graph cannot be loaded, the settings do not fit the model, or `cache_bytes` does not hold a
    /// single image.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        settings: CaptionSettings,
    ) -> Result<Self, RuntimeError> {
        let generator = Generator::load(model, options, settings)?;
        Ok(Self { encoder: BatchEncoder::load(model, options)?, generator })
    }

    /// The two halves, for threads of their own.
    #[must_use]
    pub fn into_parts(self) -> (BatchEncoder, Generator) {
        (self.encoder, self.generator)
    }

    /// The two halves, borrowed.
    pub fn parts_mut(&mut self) -> (&mut BatchEncoder, &mut Generator) {
        (&mut self.encoder, &mut self.generator)
    }

    /// Images being decoded.
    #[must_use]
    pub fn active(&self) -> usize {
        self.generator.active()
    }

    /// Most images decoded together, see [`Generator::max_slots`].
    #[must_use]
    pub fn max_slots(&self) -> usize {
        self.generator.max_slots()
    }

    /// Images that [`Captioner::admit`] takes now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.generator.room()
    }

    /// Where the time went: the encoder's, and the generator's.
    #[must_use]
    pub fn timings(&self) -> (Duration, Timings) {
        (self.encoder.time(), self.generator.timings())
    }

    /// Bytes of one image's pixels.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.encoder.image_bytes()
    }

    /// Bytes of memory that one image holds while it is decoded.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.generator.slot_bytes()
    }

    /// Encodes images and begins their captions. `pixels` is `[images.len(), S, S, 3]` u8 RGB.
    ///
    /// # Errors
    /// When there are more images than [`Captioner::room`], or the encoder fails: then none was admitted. When memory for
    /// their slots cannot be had, see [`Captioner::halve`].
    pub fn admit(&mut self, images: &[Admission], pixels: &[u8]) -> Result<(), RuntimeError> {
        if images.len() > self.room() || pixels.len() != images.len() * self.image_bytes() {
            return Err(RuntimeError::Input(format!(
                "{} images in {} bytes do not fit {} free slots",
                images.len(),
                pixels.len(),
                self.room()
            )));
        }
        if images.is_empty() {
            return Ok(());
        }
        let mut rest = images;
        for encoded in self.encoder.encode(pixels)? {
            let (now, later) = rest.split_at(encoded.images().min(rest.len()));
            self.generator.place(now, &encoded, 0)?;
            rest = later;
        }
        Ok(())
    }

    /// See [`Generator::step`].
    ///
    /// # Errors
    /// As [`Generator::step`].
    pub fn step(&mut self) -> Result<Vec<Generated>, RuntimeError> {
        self.generator.step()
    }

    /// See [`Generator::halve`].
    pub fn halve(&mut self) -> Option<Vec<u64>> {
        self.generator.halve()
    }
}
