//! Changes of type.

use burn::tensor::{DType, Tensor};

/// Casts a tensor unless it has the type already.
pub(super) fn cast<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
