//! The one weights file of an exported model: raw tensors, aligned, each stored once, referred to by every graph.
//!
//! ONNX's protobuf is limited to 2 GB; external data is not. ONNX Runtime maps the file instead of copying it. Graphs that
//! share tensors (the text tower is part of both text encoder and decoder) share their bytes here.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use half::f16;
use sha2::{Digest, Sha256};

use super::error::ExportError;
use crate::model::Precision;

/// File name inside the model's folder.
pub(super) const WEIGHTS_FILE: &str = "weights.bin";
/// Alignment of every tensor, bytes: a cache line and a vector register.
const ALIGN: u64 = 64;

/// Where a tensor is in the weights file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Byte offset, a multiple of the element size.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) len: u64,
    /// Shape, row-major.
    pub(super) shape: Vec<usize>,
}

impl Stored {
    /// Returns rows `from..from + rows` of a matrix: the same bytes, not a copy.
    #[must_use]
    pub(super) fn rows(&self, from: usize, rows: usize) -> Self {
        let row = self.len / self.shape[0] as u64;
        let mut shape = self.shape.clone();
        shape[0] = rows;
        Self { offset: self.offset + row * from as u64, len: row * rows as u64, shape }
    }
}

/// Writes tensors one after another.
pub(super) struct WeightsWriter {
    path: PathBuf,
    out: BufWriter<File>,
    at: u64,
    hasher: Sha256,
    precision: Precision,
    stored: HashMap<String, Stored>,
}

impl WeightsWriter {
    /// Creates `dir/weights.bin`.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub(super) fn create(dir: &Path, precision: Precision) -> Result<Self, ExportError> {
        let path = dir.join(WEIGHTS_FILE);
        let file = File::create(&path).map_err(|source| ExportError::Write { path: path.clone(), source })?;
        Ok(Self {
            path,
            out: BufWriter::with_capacity(1 << 20, file),
            at: 0,
            hasher: Sha256::new(),
            precision,
            stored: HashMap::new(),
        })
    }

    /// Returns the tensor of that name, if it is stored.
    #[must_use]
    pub(super) fn find(&self, name: &str) -> Option<&Stored> {
        self.stored.get(name)
    }

    /// Stores `values` in the model's precision under `name`.
    ///
    /// # Errors
    /// When the file cannot be written, or a value does not fit the precision.
    pub(super) fn store(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<Stored, ExportError> {
        let mut bytes = Vec::with_capacity(values.len() * 4);
        match self.precision {
            // In int8 models only linear layers are quantised, see `store_i8`.
            Precision::Fp32 | Precision::Int8 => {
                values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()))
            }
            Precision::Fp16 => {
                for v in values {
                    let half = f16::from_f32(*v);
                    if half.is_infinite() {
                        return Err(ExportError::Overflow { name: name.to_owned(), value: *v });
                    }
                    bytes.extend_from_slice(&half.to_le_bytes());
                }
            }
        }
        self.store_bytes(name, shape, &bytes)
    }

    /// Stores 8-bit integers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn store_i8(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[i8],
    ) -> Result<Stored, ExportError> {
        let bytes: Vec<u8> = values.iter().map(|v| v.cast_unsigned()).collect();
        self.store_bytes(name, shape, &bytes)
    }

    fn store_bytes(&mut self, name: &str, shape: &[usize], bytes: &[u8]) -> Result<Stored, ExportError> {
        debug_assert_eq!(bytes.len() % shape.iter().product::<usize>(), 0, "{name}");
        let pad = self.at.next_multiple_of(ALIGN) - self.at;
        self.write(&[0; ALIGN as usize][..pad as usize])?;
        let offset = self.at;
        self.write(bytes)?;
        let stored = Stored { offset, len: bytes.len() as u64, shape: shape.to_vec() };
        self.stored.insert(name.to_owned(), stored.clone());
        Ok(stored)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.out.write_all(bytes).map_err(|source| ExportError::Write { path: self.path.clone(), source })?;
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Flushes to disk; returns size and SHA-256 of the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn finish(mut self) -> Result<(u64, String), ExportError> {
        let io = |source| ExportError::Write { path: self.path.clone(), source };
        self.out.flush().map_err(io)?;
        self.out.get_ref().sync_all().map_err(io)?;
        Ok((self.at, recaption_schemas::hex(&self.hasher.finalize())))
    }
}
