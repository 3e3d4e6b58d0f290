//! Where a tensor's numbers are in a file, and in which order.

use std::{fs::File, os::unix::fs::FileExt};

use safetensors::Dtype;

/// A tensor's place in the file.
#[derive(Debug)]
pub(super) struct Entry {
    /// Type of its numbers.
    pub(super) dtype: Dtype,
    /// Shape, row-major; `[]` of a scalar.
    pub(super) shape: Vec<usize>,
    /// First byte in the file.
    pub(super) start: u64,
    /// Bytes of all its numbers.
    pub(super) len: usize,
    /// Distances of neighbours in elements, where the numbers do not follow each other row-major.
    pub(super) strides: Option<Vec<usize>>,
}

impl Entry {
    /// Reads the bytes of its numbers, row-major.
    pub(super) fn read(&self, file: &File) -> std::io::Result<Vec<u8>> {
        let Some(strides) = &self.strides else {
            let mut bytes = vec![0; self.len];
            file.read_exact_at(&mut bytes, self.start)?;
            return Ok(bytes);
        };
        let size = self.dtype.bitsize() / 8;
        let last: usize = self.shape.iter().zip(strides).map(|(side, stride)| (side - 1) * stride).sum();
        let mut span = vec![0; (last + 1) * size];
        file.read_exact_at(&mut span, self.start)?;
        let mut bytes = Vec::with_capacity(self.len);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
        while bytes.len() < self.len {
            bytes.extend_from_slice(&span[at * size..(at + 1) * size]);
            for dimension in (0..index.len()).rev() {
                index[dimension] += 1;
                at += strides[dimension];
                if index[dimension] < self.shape[dimension] {
                    break;
                }
                at -= strides[dimension] * self.shape[dimension];
                index[dimension] = 0;
            }
        }
        Ok(bytes)
    }

    /// Returns whether it holds numbers that can be weights. Whole numbers and flags are buffers (`position_ids`).
    pub(super) fn is_float(&self) -> bool {
        !matches!(self.dtype, Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::BOOL)
    }
}
