//! The chunks that arrived, seen as one stream of bytes.
//!
//! Stands under [`super::parser`]: blocks, runs of bytes and gaps are taken from the front,
//! wherever the chunks' boundaries fall. What lies inside one chunk is not copied. Nothing here
//! knows about tar but the size of a block.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::header::BLOCK_BYTES;

/// Capacity that a member gets on the word of its header alone, in bytes; a larger one doubles as
/// its bytes arrive, so that a header's false claim costs little.
const RESERVED_AT_ONCE_BYTES: usize = 16 << 20;

/// Chunks not taken yet, and the start of a block whose rest is still to come.
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

    /// Counts a chunk that nobody will look at.
    pub(super) fn push_unread(&mut self, chunk: &Bytes) {
        self.received += chunk.len() as u64;
    }

    /// Drops what was not taken.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
    }

    /// Bytes pushed.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Bytes taken, the partial block among them.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The start of a block whose rest is still to come.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Bytes waiting in chunks.
    pub(super) fn waiting(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// A whole block, once it is here.
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

    /// `size` bytes, once they are here: cut from the front chunk if that holds them all, else
    /// collected in `gathered`, whose capacity never exceeds `size`.
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

    /// Drops up to `left` bytes of input; what is still to be dropped.
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

    /// Drops `count` bytes of the front chunk, which has them.
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
