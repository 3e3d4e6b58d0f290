//! Tensors of a safetensors file or a torch zip, read one at a time with positioned reads: a 2.5 GB checkpoint is never in
//! memory.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::Metadata};
use sha2::{Digest, Sha256};

use super::{entry::Entry, error::CheckpointError, torch_zip};

/// Largest directory that is read, bytes; usual ones have tens of kilobytes.
const MAX_HEADER: u64 = 64 << 20;

/// Where a tensor of a file goes among open_clip's names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// open_clip's name.
    pub(super) name: String,
    /// Number of the part of that tensor that it is.
    pub(super) part: usize,
    /// Leading dimensions of 1 that it has and open_clip's has not.
    pub(super) leading_ones: usize,
}

impl Place {
    /// Makes a place for a whole tensor of the same shape.
    pub(super) fn of(name: impl Into<String>) -> Self {
        Self { name: name.into(), part: 0, leading_ones: 0 }
    }
}

/// The tensors of a checkpoint by open_clip's names, as f32.
#[derive(Debug)]
pub struct TensorReader {
    path: PathBuf,
    file: File,
    entries: BTreeMap<String, Entry>,
    metadata: Option<BTreeMap<String, String>>,
    used: RefCell<BTreeSet<String>>,
}

impl TensorReader {
    /// Opens a safetensors file or a torch zip, whatever its name is, and checks its directory.
    ///
    /// # Errors
    /// When the file is unreadable or malformed, or a torch zip asks for more than tensors.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::Io { path: path.to_owned(), source };
        let bad = |what: String| CheckpointError::Tensors { path: path.to_owned(), what };
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix)
            .map_err(|_| bad(format!("{size} bytes are neither a safetensors nor a torch file")))?;
        if torch_zip::is_torch_file(&prefix) {
            let entries = torch_zip::read_entries(&file, size, &prefix).map_err(bad)?;
            return Ok(Self {
                path: path.to_owned(),
                file,
                entries,
                metadata: None,
                used: RefCell::default(),
            });
        }
        let header = u64::from_le_bytes(prefix);
        if header > MAX_HEADER || header + 8 > size {
            return Err(bad(format!(
                "directory of {header} bytes in a file of {size}: truncated, or neither a safetensors nor a torch file"
            )));
        }
        let mut buffer = Vec::new();
        (&mut file).take(header).read_to_end(&mut buffer).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&buffer).map_err(|e| bad(format!("malformed directory: {e}")))?;
        let entries = directory_entries(&metadata, 8 + header, size).map_err(bad)?;
        let metadata =
            metadata.metadata().as_ref().map(|m| m.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
        Ok(Self { path: path.to_owned(), file, entries, metadata, used: RefCell::default() })
    }

    /// Gives every tensor the name that `rename` returns for it, and leaves out those without one.
    #[must_use]
    pub(super) fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let entries = std::mem::take(&mut self.entries);
        self.entries =
            entries.into_iter().filter_map(|(name, entry)| Some((rename(&name)?, entry))).collect();
        self
    }

    /// Gives every tensor the place that `place` returns for its name; tensors of one name are joined in the order of their parts. A
    /// tensor without a place keeps its name.
    ///
    /// # Errors
    /// When tensors that are to be joined do not fit each other.
    pub(super) fn rearranged(
        mut self,
        place: impl Fn(&str) -> Option<Place>,
    ) -> Result<Self, CheckpointError> {
        let mut places: BTreeMap<String, BTreeMap<usize, Entry>> = BTreeMap::new();
        for (name, entry) in std::mem::take(&mut self.entries) {
            let place = place(&name).unwrap_or_else(|| Place::of(&name));
            let entry = entry.without_leading_ones(place.leading_ones);
            places.entry(place.name).or_default().insert(place.part, entry);
        }
        for (name, mut parts) in places {
            let entry = match parts.len() {
                1 => parts.pop_first().map(|(_, entry)| entry),
                _ => None,
            };
            let entry = match entry {
                Some(entry) => entry,
                None => Entry::joined(parts.into_values().collect())
                    .map_err(|what| self.error(format!("tensor `{name}` cannot be joined: {what}")))?,
            };
            self.entries.insert(name, entry);
        }
        Ok(self)
    }

    fn error(&self, what: String) -> CheckpointError {
        CheckpointError::Tensors { path: self.path.clone(), what }
    }

    /// Returns the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the file has a tensor of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Returns the names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns the type that a tensor is stored in, if there is such a tensor.
    #[must_use]
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.entries.get(name).map(|e| e.dtype)
    }

    /// Returns the shape of a tensor, `[]` of a scalar, if there is such a tensor.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// Returns the file's `__metadata__`, if there is any.
    #[must_use]
    pub fn metadata(&self) -> Option<&BTreeMap<String, String>> {
        self.metadata.as_ref()
    }

    /// Reads one tensor, row-major, as f32.
    ///
    /// # Errors
    /// When the tensor is missing (with a similar name that exists), has another shape or a dtype other than fp32, fp16, bf16
    /// and fp64, or holds values that are not finite.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let entry = self.entries.get(name).ok_or_else(|| self.missing(name, shape))?;
        if entry.shape != shape {
            return Err(self.error(format!(
                "tensor `{name}` has shape {:?}, the configuration implies {shape:?}",
                entry.shape
            )));
        }
        let bytes = entry
            .read(&self.file)
            .map_err(|source| CheckpointError::Io { path: self.path.clone(), source })?;
        let values: Vec<f32> = match entry.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                return Err(
                    self.error(format!("tensor `{name}` is {other:?}; supported are F32, F16, BF16 and F64"))
                );
            }
        };
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(self.error(format!("tensor `{name}` holds {} at element {at}", values[at])));
        }
        self.used.borrow_mut().insert(name.to_owned());
        Ok(values)
    }

    /// Returns the bytes of a tensor's numbers, row-major.
    #[cfg(test)]
    pub(super) fn bytes(&self, name: &str) -> std::io::Result<Vec<u8>> {
        self.entries[name].read(&self.file)
    }

    fn missing(&self, name: &str, shape: &[usize]) -> CheckpointError {
        let last = name.rsplit('.').next().unwrap_or(name);
        let hint =
            self.entries.keys().find(|k| k.ends_with(last)).map_or(String::new(), |k| {
                format!(" (there is for instance `{k}` {:?})", self.entries[k].shape)
            });
        self.error(format!("tensor `{name}` {shape:?} is missing{hint}"))
    }

    /// Marks tensors that no graph needs (`logit_scale`) as read, so that [`TensorReader::finish`] accepts them.
    pub fn ignore(&self, names: &[&str]) {
        self.used.borrow_mut().extend(names.iter().map(|n| (*n).to_owned()));
    }

    /// Checks that every tensor was read, apart from buffers of whole numbers (`position_ids`, `num_batches_tracked`), which
    /// no supported model has.
    ///
    /// # Errors
    /// When the checkpoint has tensors that its configuration does not account for.
    pub fn finish(&self) -> Result<(), CheckpointError> {
        let used = self.used.borrow();
        let unknown = self.entries.iter().filter(|(name, entry)| entry.is_float() && !used.contains(*name));
        let unknown: Vec<&String> = unknown.map(|(name, _)| name).collect();
        match unknown.first() {
            None => Ok(()),
            Some(first) => Err(self.error(format!(
                "{} unknown tensor(s), first `{first}` {:?}: the configuration does not account for them",
                unknown.len(),
                self.entries[*first].shape
            ))),
        }
    }

    /// Returns the number of values in all tensors, apart from buffers of whole numbers.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.entries.values().filter(|e| e.is_float()).map(|e| e.shape.iter().product::<usize>() as u64).sum()
    }

    /// Returns the SHA-256 of the file, hexadecimal.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sha256(&self) -> Result<String, CheckpointError> {
        let io = |source| CheckpointError::Io { path: self.path.clone(), source };
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let n = self.file.read_at(&mut buffer, at).map_err(io)?;
            if n == 0 {
                return Ok(recaption_schemas::hex(&hasher.finalize()));
            }
            hasher.update(&buffer[..n]);
            at += n as u64;
        }
    }
}

/// Returns the places of a safetensors file's tensors; the data begin at `base` in a file of `size` bytes.
fn directory_entries(metadata: &Metadata, base: u64, size: u64) -> Result<BTreeMap<String, Entry>, String> {
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (from, to) = info.data_offsets;
        // The directory's own consistency (no gaps, length = shape times dtype) was checked while parsing it.
        let available = size - base;
        if to as u64 > available {
            return Err(format!(
                "tensor `{name}` ends at byte {to} of the data, the file has {available}: truncated"
            ));
        }
        let (start, shape) = (base + from as u64, info.shape.clone());
        let (len, parts) = (to - from, Vec::new());
        entries.insert(name, Entry { dtype: info.dtype, shape, start, len, strides: None, parts });
    }
    Ok(entries)
}
