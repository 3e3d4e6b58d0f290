//! What a pickle of tensors holds, in flat tables, and why one is refused.

use safetensors::Dtype;

use super::globals::Global;

/// Why a pickle is refused.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// It names a function or class that is not on the closed list.
    #[error("data.pkl asks for `{0}`; only tensors are read, and nothing of the file was executed")]
    Global(String),
    /// It has an instruction that no file of tensors needs.
    #[error("data.pkl has instruction {instruction:#04x} at byte {at}, which no dictionary of tensors needs")]
    Instruction {
        /// The instruction.
        instruction: u8,
        /// Where it is.
        at: usize,
    },
    /// It ends before its last instruction.
    #[error("data.pkl is truncated")]
    Truncated,
    /// It is malformed.
    #[error("data.pkl is malformed at byte {at}: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Behind which byte.
        at: usize,
    },
}

/// A value, or the index of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// `None`.
    None,
    /// A whole number of at most 64 bits.
    Int(i64),
    /// A text.
    Text(&'a str),
    /// A boolean, a float, bytes, a large number, a type: nothing that a tensor depends on.
    Other,
    /// Index of a tuple or list.
    Sequence(usize),
    /// Index of a dictionary.
    Mapping(usize),
    /// A name of the closed list.
    Global(Global),
    /// Index of a storage.
    Storage(usize),
    /// Index of a tensor.
    Tensor(usize),
}

/// A storage: numbers of one type in an entry of the zip file.
#[derive(Clone, Debug)]
pub(super) struct Storage<'a> {
    /// Type of its numbers.
    pub(super) dtype: Dtype,
    /// Name of its entry.
    pub(super) key: &'a str,
    /// How many numbers it has.
    pub(super) count: u64,
}

/// A tensor: a view of a storage, in elements.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// Index of the storage.
    pub(super) storage: usize,
    /// First element.
    pub(super) offset: u64,
    /// Shape, row-major; empty of a scalar.
    pub(super) shape: Vec<u64>,
    /// Distance of neighbours, for each dimension.
    pub(super) strides: Vec<u64>,
}

/// A pickle's values.
#[derive(Debug)]
pub struct Pickle<'a> {
    pub(super) root: Value<'a>,
    pub(super) sequences: Vec<Vec<Value<'a>>>,
    pub(super) mappings: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<Tensor>,
}
