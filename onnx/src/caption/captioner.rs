//! Images to token ids on one thread: an image encoder in front of a [`Generator`].
//!
//! Stands between `Image` and `Generated`. A program that encodes on another thread takes the two apart with
//! [`Captioner::into_parts`].

use std::time::Duration;

use super::{
    encoder::BatchEncoder,
    generated::{Admission, Generated, Timings},
    generator::Generator,
    settings::CaptionSettings,
};
use crate::{
    model::{GenerationRules, ModelFolder},
    runtime::{RuntimeError, SessionOptions},
};

/// An image encoder and a generator on one thread.
#[derive(Debug)]
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

    /// Loads as [`Captioner::load`] does, for captions that follow other rules than the model's.
    ///
    /// # Errors
    /// As [`Captioner::load`].
    pub(crate) fn load_with_rules(
        model: &ModelFolder,
        options: &SessionOptions,
        settings: CaptionSettings,
        rules: GenerationRules,
    ) -> Result<Self, RuntimeError> {
        let generator = Generator::load_with_rules(model, options, settings, rules)?;
        Ok(Self { encoder: BatchEncoder::load(model, options)?, generator })
    }

    /// Splits the captioner into encoder and generator, for threads of their own.
    #[must_use]
    pub fn into_parts(self) -> (BatchEncoder, Generator) {
        (self.encoder, self.generator)
    }

    /// Borrows encoder and generator.
    pub fn parts_mut(&mut self) -> (&mut BatchEncoder, &mut Generator) {
        (&mut self.encoder, &mut self.generator)
    }

    /// Returns the number of images in flight.
    #[must_use]
    pub fn active(&self) -> usize {
        self.generator.active()
    }

    /// Returns the largest number of images in flight, see [`Generator::max_slots`].
    #[must_use]
    pub fn max_slots(&self) -> usize {
        self.generator.max_slots()
    }

    /// Returns how many images [`Captioner::admit`] takes now.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.generator.free_slots()
    }

    /// Returns the time spent in the encoder, and the generator's timings.
    #[must_use]
    pub fn timings(&self) -> (Duration, Timings) {
        (self.encoder.time(), self.generator.timings())
    }

    /// Returns the bytes of one image's pixels, `S * S * 3`.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.encoder.image_bytes()
    }

    /// Returns the bytes of memory that one image in flight holds.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.generator.slot_bytes()
    }

    /// Encodes images and starts their captions. `pixels` is u8 RGB `[images.len(), S, S, 3]`.
    ///
    /// # Errors
    /// When there are more images than [`Captioner::free_slots`], or the encoder fails: none is admitted then. When
    /// memory for their slots does not suffice, see [`Captioner::halve_slots`].
    pub fn admit(&mut self, images: &[Admission], pixels: &[u8]) -> Result<(), RuntimeError> {
        if images.len() > self.free_slots() || pixels.len() != images.len() * self.image_bytes() {
            return Err(RuntimeError::Input(format!(
                "{} images in {} bytes do not fit {} free slots",
                images.len(),
                pixels.len(),
                self.free_slots()
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

    /// Generates one token of every row, see [`Generator::step`].
    ///
    /// # Errors
    /// As [`Generator::step`].
    pub fn step(&mut self) -> Result<Vec<Generated>, RuntimeError> {
        self.generator.step()
    }

    /// Halves the slots after memory ran out, see [`Generator::halve_slots`].
    pub fn halve_slots(&mut self) -> Option<Vec<u64>> {
        self.generator.halve_slots()
    }
}
