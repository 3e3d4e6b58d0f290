//! Tensors of a golden by name, with the types and shapes that a model needs. Errors do not name the file.

use safetensors::{Dtype, SafeTensors};

/// An open safetensors file.
pub(super) struct TensorFile<'a>(SafeTensors<'a>);

impl<'a> TensorFile<'a> {
    /// Reads the directory of a file's contents.
    ///
    /// # Errors
    /// When it is malformed.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, String> {
        SafeTensors::deserialize(data).map(Self).map_err(|e| e.to_string())
    }

    /// Returns whether there is a tensor of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.names().contains(&name)
    }

    /// Returns the names of all tensors, in alphabetical order.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names = self.0.names();
        names.sort_unstable();
        names
    }

    /// Reads a tensor of the expected type and shape; `None` is any size.
    ///
    /// # Errors
    /// When there is no such tensor, or it has another type or shape.
    pub(super) fn tensor(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[Option<usize>],
    ) -> Result<(Vec<usize>, Vec<u8>), String> {
        let view = self.0.tensor(name).map_err(|_| format!("no tensor `{name}`"))?;
        let fits = view.shape().len() == shape.len()
            && view.shape().iter().zip(shape).all(|(got, want)| want.is_none_or(|want| *got == want));
        if view.dtype() != dtype || !fits {
            let sizes: Vec<String> =
                shape.iter().map(|d| d.map_or("any".into(), |d| d.to_string())).collect();
            return Err(format!(
                "tensor `{name}` is {:?} {:?}, this model needs {dtype:?} [{}]",
                view.dtype(),
                view.shape(),
                sizes.join(", ")
            ));
        }
        Ok((view.shape().to_vec(), view.data().to_vec()))
    }

    /// Reads a tensor of f32.
    ///
    /// # Errors
    /// As [`TensorFile::tensor`].
    pub(super) fn floats(
        &self,
        name: &str,
        shape: &[Option<usize>],
    ) -> Result<(Vec<usize>, Vec<f32>), String> {
        let (shape, bytes) = self.tensor(name, Dtype::F32, shape)?;
        Ok((shape, bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    /// Reads rows of ids and checks that they are within the vocabulary.
    ///
    /// # Errors
    /// As [`TensorFile::tensor`], and when an id is outside the vocabulary or rows are empty.
    pub(super) fn ids(
        &self,
        name: &str,
        rows: Option<usize>,
        vocab_size: usize,
    ) -> Result<Vec<Vec<i64>>, String> {
        let (shape, bytes) = self.tensor(name, Dtype::I64, &[rows, None])?;
        split_ids(name, shape[1], &bytes, vocab_size)
    }

    /// Reads `[count, each, L]` ids as `count * each` rows.
    ///
    /// # Errors
    /// As [`TensorFile::ids`].
    pub(super) fn id_rows(
        &self,
        name: &str,
        (count, each): (usize, usize),
        vocab_size: usize,
    ) -> Result<Vec<Vec<i64>>, String> {
        let (shape, bytes) = self.tensor(name, Dtype::I64, &[Some(count), Some(each), None])?;
        split_ids(name, shape[2], &bytes, vocab_size)
    }
}

/// Returns rows of `length` ids that are within the vocabulary.
fn split_ids(name: &str, length: usize, bytes: &[u8], vocab_size: usize) -> Result<Vec<Vec<i64>>, String> {
    let ids: Vec<i64> = bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    if let Some(id) = ids.iter().find(|id| !(0..vocab_size as i64).contains(*id)) {
        return Err(format!("tensor `{name}` holds id {id}, this model's vocabulary has {vocab_size}"));
    }
    if length == 0 {
        return Err(format!("tensor `{name}` has rows without ids"));
    }
    Ok(ids.chunks_exact(length).map(<[i64]>::to_vec).collect())
}
