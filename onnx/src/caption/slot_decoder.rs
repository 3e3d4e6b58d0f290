//! The decoder as a generator uses it.

use std::fmt;

use crate::runtime::{Decoder, Encoded, Logits, RowUpdate, RuntimeError};

/// A decoder over a fixed set of slots: one image per slot, the same number of rows in each, one token per row and step.
///
/// [`Decoder`] runs a model's graph. Tests wrap it to make allocations or steps fail.
pub trait SlotDecoder: fmt::Debug + Send {
    /// Changes the number of slots; new slot `i` takes over what slot `keep[i]` held.
    ///
    /// # Errors
    /// When memory does not suffice; no slots exist then.
    fn resize(&mut self, slots: usize, keep: &[usize]) -> Result<(), RuntimeError>;

    /// Loads images of `encoded` into slots, for every pair of slot and index.
    ///
    /// # Errors
    /// When there is no such slot, or the tensors do not fit.
    fn load_images(&mut self, places: &[(usize, usize)], encoded: &Encoded) -> Result<(), RuntimeError>;

    /// Runs one step of all rows; returns logits `[rows, V]` where they are.
    ///
    /// # Errors
    /// When `updates` does not match the rows, a position lies outside the cache, or the graph fails.
    fn run(&mut self, updates: &[Option<RowUpdate>]) -> Result<Logits<'_>, RuntimeError>;

    /// Copies the first `length` positions of row `from`'s caches to row `to`, for every `(from, to, length)`.
    ///
    /// # Errors
    /// When there is no such row or position, or the copy fails.
    fn copy_caches(&mut self, copies: &[(usize, usize, usize)]) -> Result<(), RuntimeError>;

    /// Frees all slots.
    fn release(&mut self);

    /// Returns the bytes that one slot holds.
    fn slot_bytes(&self) -> usize;

    /// Returns the bytes of one image's cross-attention keys and values.
    fn cross_bytes(&self) -> usize;
}

impl SlotDecoder for Decoder {
    fn resize(&mut self, slots: usize, keep: &[usize]) -> Result<(), RuntimeError> {
        Decoder::resize(self, slots, keep)
    }

    fn load_images(&mut self, places: &[(usize, usize)], encoded: &Encoded) -> Result<(), RuntimeError> {
        Decoder::load_images(self, places, encoded)
    }

    fn run(&mut self, updates: &[Option<RowUpdate>]) -> Result<Logits<'_>, RuntimeError> {
        Decoder::run(self, updates)
    }

    fn copy_caches(&mut self, copies: &[(usize, usize, usize)]) -> Result<(), RuntimeError> {
        Decoder::copy_caches(self, copies)
    }

    fn release(&mut self) {
        Decoder::release(self);
    }

    fn slot_bytes(&self) -> usize {
        Decoder::slot_bytes(self)
    }

    fn cross_bytes(&self) -> usize {
        Decoder::cross_bytes(self)
    }
}
