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
    /// Tensors whose rows follow one another and make up this one; if there are any, `start` and `strides` are not used.
    pub(super) parts: Vec<Self>,
}

impl Entry {
    /// Joins tensors along their first dimension.
    ///
    /// # Errors
    /// A message if there are none, or they differ in type or in the other dimensions.
    pub(super) fn joined(parts: Vec<Self>) -> Result<Self, String> {
        let first = parts.first().ok_or("there is nothing to join")?;
        let (dtype, rest) = (first.dtype, first.shape.get(1..).unwrap_or_default().to_vec());
        let fits = |part: &&Self| part.dtype == dtype && !part.shape.is_empty() && part.shape[1..] == rest;
        if let Some(other) = parts.iter().find(|part| !fits(part)) {
            return Err(format!(
                "{:?} {:?} and {:?} {:?} are parts of one tensor",
                dtype, first.shape, other.dtype, other.shape
            ));
        }
        let rows = parts.iter().map(|part| part.shape[0]).sum();
        let shape = [&[rows], rest.as_slice()].concat();
        let len = parts.iter().map(|part| part.len).sum();
        Ok(Self { dtype, shape, start: 0, len, strides: None, parts })
    }

    /// Drops up to `count` leading dimensions of 1.
    pub(super) fn without_leading_ones(mut self, count: usize) -> Self {
        let ones = self.shape.iter().take(count).take_while(|side| **side == 1).count();
        self.shape.drain(..ones);
        if let Some(strides) = &mut self.strides {
            strides.drain(..ones);
        }
        self
    }

    /// Reads the bytes of its numbers, row-major.
    pub(super) fn read(&self, file: &File) -> std::io::Result<Vec<u8>> {
        if !self.parts.is_empty() {
            let parts: std::io::Result<Vec<Vec<u8>>> =
                self.parts.iter().map(|part| part.read(file)).collect();
            return Ok(parts?.concat());
        }
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
