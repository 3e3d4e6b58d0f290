//! From a pickle's values to named places in the file: finds the state dict, and checks every tensor against its storage.

use std::collections::BTreeMap;

use super::{
    archive::Place,
    values::{Pickle, Storage, Tensor, Value},
};
use crate::checkpoint::entry::Entry;

/// Keys below which training programs put the state dict: open_clip's `state_dict`, and `model`.
const NESTED: [&str; 2] = ["state_dict", "model"];
/// What `torch.nn.DataParallel` and its kin put before every name.
const PARALLEL_PREFIX: &str = "module.";

/// Returns the tensors of a state dict by name. `place` finds a storage's bytes, `file_size` bounds a tensor's.
///
/// # Errors
/// When there is no state dict, something in it is not a tensor, or a tensor does not lie within its storage.
pub(super) fn tensors(
    pickle: &Pickle<'_>,
    place: impl Fn(&str) -> Option<Place>,
    file_size: u64,
) -> Result<BTreeMap<String, Entry>, String> {
    let pairs = find(pickle)?;
    let parallel = pairs.first().is_some_and(|(key, _)| starts_with_parallel(key));
    let mut entries = BTreeMap::new();
    for (key, value) in pairs {
        let Value::Text(name) = key else {
            return Err("data.pkl has a key that is no text: it is not a state dict of tensors".into());
        };
        let Value::Tensor(tensor) = value else {
            return Err(format!("`{}` is not a tensor; only tensors are read", name.escape_debug()));
        };
        let name = name.strip_prefix(PARALLEL_PREFIX).filter(|_| parallel).unwrap_or(name);
        let tensor = &pickle.tensors[*tensor];
        let storage = &pickle.storages[tensor.storage];
        let entry = entry(tensor, storage, place(storage.key), file_size)
            .map_err(|what| format!("tensor `{}` {what}", name.escape_debug()))?;
        entries.insert(name.to_owned(), entry);
    }
    Ok(entries)
}

fn starts_with_parallel(key: &Value<'_>) -> bool {
    matches!(key, Value::Text(name) if name.starts_with(PARALLEL_PREFIX))
}

/// Returns the pairs of the state dict: the file's dictionary, or one that it holds.
fn find<'p, 'a>(pickle: &'p Pickle<'a>) -> Result<&'p [(Value<'a>, Value<'a>)], String> {
    let Value::Mapping(root) = pickle.root else {
        return Err("data.pkl holds no dictionary: save the model's state_dict() instead of the model".into());
    };
    let root = &pickle.mappings[root];
    let nested = NESTED.iter().find_map(|wanted| {
        root.iter().find_map(|(key, value)| match (key, value) {
            (Value::Text(name), Value::Mapping(inner)) if name == wanted => Some(*inner),
            _ => None,
        })
    });
    Ok(nested.map_or(root.as_slice(), |inner| pickle.mappings[inner].as_slice()))
}

/// Checks that a tensor lies within its storage and that within its file.
fn entry(
    tensor: &Tensor,
    storage: &Storage<'_>,
    place: Option<Place>,
    file_size: u64,
) -> Result<Entry, String> {
    let size = (storage.dtype.bitsize() / 8) as u64;
    let place =
        place.ok_or_else(|| format!("needs the zip entry `data/{}`, which is missing", storage.key))?;
    let stored = storage.count.checked_mul(size).filter(|bytes| *bytes <= place.len);
    let stored = stored.ok_or_else(|| {
        format!("needs {} values of {size} bytes, but its storage has {} bytes", storage.count, place.len)
    })?;
    let count = tensor.shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
    let count = count.filter(|count| count.checked_mul(size).is_some_and(|bytes| bytes <= file_size));
    let count = count.ok_or_else(|| format!("of shape {:?} is larger than the file", tensor.shape))?;
    let reach = if count == 0 {
        Some(0)
    } else {
        let far = |at: u64, (side, stride): (&u64, &u64)| (side - 1).checked_mul(*stride)?.checked_add(at);
        tensor
            .shape
            .iter()
            .zip(&tensor.strides)
            .try_fold(tensor.offset, far)
            .and_then(|last| last.checked_add(1))
    };
    if reach.and_then(|end| end.checked_mul(size)).is_none_or(|end| end > stored) {
        return Err(format!(
            "of shape {:?}, strides {:?} and offset {} ends behind its storage of {} values",
            tensor.shape, tensor.strides, tensor.offset, storage.count
        ));
    }
    let side = |number: &u64| usize::try_from(*number).map_err(|e| e.to_string());
    let shape: Vec<usize> = tensor.shape.iter().map(side).collect::<Result<_, _>>()?;
    let strides: Vec<usize> = tensor.strides.iter().map(side).collect::<Result<_, _>>()?;
    let strides = (count > 0 && !is_contiguous(&shape, &strides)).then_some(strides);
    let start = if count == 0 { place.start } else { place.start + tensor.offset * size };
    let len = side(&(count * size))?;
    Ok(Entry { dtype: storage.dtype, shape, start, len, strides, parts: Vec::new() })
}

/// Returns whether a tensor's elements follow each other, row-major. The stride of a side of 1 means nothing.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(side, stride)| {
        let fits = *side == 1 || *stride == expected;
        expected *= side;
        fits
    })
}
