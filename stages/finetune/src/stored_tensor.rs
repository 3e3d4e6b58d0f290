//! Tensors in the type that they are saved in.

use std::borrow::Cow;

use half::{bf16, f16};
use safetensors::{Dtype, View};

/// A finite value that the type of its tensor cannot hold.
#[derive(Clone, Debug, thiserror::Error)]
#[error("tensor `{name}` holds {value}, which {dtype:?} cannot; set `model.save_as = \"fp32\"`")]
pub struct OverflowError {
    /// Name of the tensor.
    pub name: String,
    /// The value.
    pub value: f32,
    /// The type.
    pub dtype: Dtype,
}

/// A tensor as bytes of its type.
#[derive(Debug)]
pub(crate) struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl StoredTensor {
    /// Converts values to `dtype`: F16, BF16, or else F32.
    ///
    /// # Errors
    /// Fails when a finite value becomes infinite.
    pub(crate) fn new(
        name: &str,
        shape: &[usize],
        values: &[f32],
        dtype: Dtype,
    ) -> Result<Self, OverflowError> {
        let mut bytes = Vec::with_capacity(values.len() * 4);
        for value in values {
            let fits = match dtype {
                Dtype::F16 => {
                    let half = f16::from_f32(*value);
                    bytes.extend_from_slice(&half.to_le_bytes());
                    half.is_finite()
                }
                Dtype::BF16 => {
                    let half = bf16::from_f32(*value);
                    bytes.extend_from_slice(&half.to_le_bytes());
                    half.is_finite()
                }
                _ => {
                    bytes.extend_from_slice(&value.to_le_bytes());
                    true
                }
            };
            if value.is_finite() && !fits {
                return Err(OverflowError { name: name.to_owned(), value: *value, dtype });
            }
        }
        let dtype = if matches!(dtype, Dtype::F16 | Dtype::BF16) { dtype } else { Dtype::F32 };
        Ok(Self { dtype, shape: shape.to_vec(), bytes })
    }
}

impl View for StoredTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A tensor of a file, of any type.
#[derive(Debug)]
pub(crate) enum FileTensor {
    /// Numbers in a floating-point type.
    Floats(StoredTensor),
    /// Type, shape and bytes.
    Bytes(Dtype, Vec<usize>, Vec<u8>),
}

impl FileTensor {
    /// Creates a tensor of I64.
    pub(crate) fn integers(shape: &[usize], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::Bytes(Dtype::I64, shape.to_vec(), bytes)
    }
}

impl View for FileTensor {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Floats(stored) => View::dtype(stored),
            Self::Bytes(dtype, ..) => *dtype,
        }
    }
    fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(stored) => View::shape(stored),
            Self::Bytes(_, shape, _) => shape,
        }
    }
    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Floats(stored) => View::data(stored),
            Self::Bytes(_, _, bytes) => bytes.into(),
        }
    }
    fn data_len(&self) -> usize {
        match self {
            Self::Floats(stored) => View::data_len(stored),
            Self::Bytes(_, _, bytes) => bytes.len(),
        }
    }
}
