//! `torch.save`'s zip files (`open_clip_pytorch_model.bin`, `.pt`) read as data.
//!
//! A torch zip holds a pickle, `PREFIX/data.pkl`, that names the tensors, and one stored entry `PREFIX/data/KEY` per storage.
//! The pickle is a program of a stack machine. `pickle` interprets a closed set of its instructions and builds values from
//! them; functions are data with a name from a closed list (`globals`), and nothing of the file is ever called. Whatever else
//! a file asks for is refused by its name. `archive` reads the zip's directory, `state_dict` finds the tensors.
//!
//! Nothing here reads weights: an opened file is a list of places, and `TensorReader` reads one tensor at a time. No memory
//! is allocated by a size that the file only states: the pickle has 16 MiB at most, and a tensor is never larger than its file.

mod archive;
mod calls;
mod globals;
mod pickle;
mod state_dict;
#[cfg(test)]
mod tests;
mod values;

use std::{collections::BTreeMap, fs::File};

use archive::{Archive, ZIP_MAGIC};
pub use values::{Pickle, PickleError};

use super::entry::Entry;

/// Largest pickle that is read, bytes; a large model's has some hundred kilobytes.
const MAX_PICKLE: u64 = 16 << 20;
/// How torch before 1.6 began its files: a pickled number.
const OLD_MAGIC: &[u8] =
    &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Returns whether a file begins as one of torch's formats does, the old one included.
pub(super) fn is_torch_file(start: &[u8]) -> bool {
    start.starts_with(ZIP_MAGIC) || start.starts_with(&OLD_MAGIC[..8])
}

/// Reads the list of a file's tensors. `start` is its first bytes, `size` its length.
///
/// # Errors
/// One sentence on what is malformed, not supported or refused.
pub(super) fn read_entries(file: &File, size: u64, start: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    if !start.starts_with(ZIP_MAGIC) {
        return Err("saved in torch's format from before version 1.6, which is not read; save it again with a newer torch: \
             python -c \"import sys, torch; torch.save(torch.load(sys.argv[1], weights_only=True), sys.argv[2])\" OLD NEW"
            .into());
    }
    let archive = Archive::open(file, size)?;
    let prefix = archive.pickle_prefix()?;
    if let Some(order) = archive.read_small(&format!("{prefix}byteorder"))?
        && order != b"little"
    {
        return Err(
            "its numbers are big-endian, which is not supported: save it again on a little-endian machine"
                .into(),
        );
    }
    let bytes = archive.read(&format!("{prefix}data.pkl"), MAX_PICKLE)?;
    let pickle = Pickle::parse(&bytes).map_err(|error| error.to_string())?;
    state_dict::tensors(&pickle, |key| archive.place(&format!("{prefix}data/{key}")), size)
}
