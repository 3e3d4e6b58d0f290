//! Buffers that are reused between images.

/// Returns the first `len` bytes of `buffer`, which is extended if needed. They hold data of earlier images.
pub(crate) fn grown(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}
