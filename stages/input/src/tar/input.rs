//! The chunks that arrived, seen as one stream of bytes.
//!
//! Below [`super::parser`]: blocks and runs of bytes are consumed or skipped from the front, across the boundaries of chunks.
//! Runs within one chunk are not copied.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::header::BLOCK_BYTES;

/// Capacity that is reserved for a member by its header alone, bytes. A larger one doubles as its bytes arrive, so that a false
/// size costs little.
const RESERVED_AT_ONCE_BYTES: usize = 16 << 20;

/// The chunks that are not consumed yet, and the start of an incomplete block.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// None of them is empty.
    chunks: VecDeque<Bytes>,
    received: u64,
    offset: u64,
    partial: Vec<u8>,
}

impl Input {
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.received += chunk.len() as u64;
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// Counts a chunk without keeping it.
    pub(super) fn push_unread(&mut self, chunk: &Bytes) {
        self.received += chunk.len() as u64;
    }

    /// Counts bytes as received and consumed that nobody read. There must be no chunks.
    pub(super) fn jump(&mut self, bytes: u64) {
        debug_assert!(self.chunks.is_empty() && self.partial.is_empty());
        self.received += bytes;
        self.offset += bytes;
    }

    /// Drops the chunks.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
    }

    /// Returns the number of bytes pushed.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Returns the number of bytes consumed, including the incomplete block.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the start of an incomplete block.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Returns the number of bytes in chunks.
    pub(super) fn waiting(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Consumes a block, once it is complete.
    pub(super) fn take_block(&mut self) -> Option<[u8; BLOCK_BYTES]> {
        if self.partial.is_empty()
            && let Some(block) =
                self.chunks.front().and_then(|chunk| chunk.first_chunk::<BLOCK_BYTES>().copied())
        {
            self.advance(BLOCK_BYTES);
            return Some(block);
        }
        while let Some(chunk) = self.chunks.front() {
            let taken = chunk.len().min(BLOCK_BYTES - self.partial.len());
            self.partial.extend_from_slice(&chunk[..taken]);
            self.advance(taken);
            if let Ok(block) = <[u8; BLOCK_BYTES]>::try_from(self.partial.as_slice()) {
                self.partial.clear();
                return Some(block);
            }
        }
        None
    }

    /// Consumes `size` bytes, once they are complete: a slice of the front chunk if that holds them all, else collected in
    /// `gathered`, whose capacity never exceeds `size`.
    pub(super) fn gather(&mut self, size: u64, gathered: &mut Vec<u8>) -> Option<Bytes> {
        // A size within the limits is within the address space, or the allocation fails anyway.
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 {
            return Some(Bytes::new());
        }
        if gathered.is_empty()
            && let Some(chunk) = self.chunks.front().filter(|chunk| chunk.len() >= size)
        {
            let bytes = chunk.slice(..size);
            self.advance(size);
            return Some(bytes);
        }
        while let Some(chunk) = self.chunks.front() {
            let missing = size - gathered.len();
            let taken = chunk.len().min(missing);
            if gathered.capacity() - gathered.len() < taken {
                gathered.reserve_exact(missing.min(taken.max(gathered.len()).max(RESERVED_AT_ONCE_BYTES)));
            }
            gathered.extend_from_slice(&chunk[..taken]);
            self.advance(taken);
            if gathered.len() == size {
                return Some(Bytes::from(std::mem::take(gathered)));
            }
        }
        None
    }

    /// Skips up to `left` bytes, and returns how many are still to be skipped.
    pub(super) fn skip(&mut self, mut left: u64) -> u64 {
        while left > 0
            && let Some(chunk) = self.chunks.front()
        {
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            self.advance(taken);
            left -= taken as u64;
        }
        left
    }

    /// Skips `count` bytes of the front chunk.
    fn advance(&mut self, count: usize) {
        if let Some(chunk) = self.chunks.front_mut() {
            chunk.advance(count);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            self.offset += count as u64;
        }
    }
}
