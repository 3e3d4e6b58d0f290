//! What both encoders need of a copy's parameters, and batches of texts.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::table::MOMENTUM_SUFFIX;
use crate::{
    kernels::KeyMask,
    model::{
        layers::{layer_norm_with, project},
        parameters::Parameters,
    },
};

/// A batch of texts, padded to the longest.
#[derive(Clone, Debug)]
pub struct TextBatch {
    /// Ids `[N, T]`: `[CLS]`, words, padding.
    pub ids: Tensor<2, Int>,
    /// Number of ids of each text without padding, `[N]`; what follows is hidden from attention.
    pub lengths: Vec<usize>,
}

impl TextBatch {
    /// Copies texts to a device; `ids` are padded to the longest of them.
    #[must_use]
    pub fn new(ids: &[Vec<i64>], pad: i64, device: &Device) -> Self {
        let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
        let length = lengths.iter().copied().max().unwrap_or(0).max(1);
        let at = |row: &Vec<i64>, i: usize| row.get(i).copied().unwrap_or(pad);
        let flat: Vec<i64> = ids.iter().flat_map(|row| (0..length).map(move |i| at(row, i))).collect();
        let ids = Tensor::from_data(TensorData::new(flat, [ids.len(), length]), device);
        Self { ids, lengths }
    }
}

/// Returns the mask that hides what follows each text's length.
pub(super) fn key_mask(lengths: &[usize], length: usize, device: &Device) -> KeyMask {
    if lengths.iter().all(|n| *n >= length) {
        return KeyMask::None;
    }
    let hidden: Vec<bool> = lengths.iter().flat_map(|n| (0..length).map(move |i| i >= *n)).collect();
    let hidden = Tensor::<2, Bool>::from_data(TensorData::new(hidden, [lengths.len(), length]), device);
    KeyMask::Except(hidden)
}

/// Returns the first token of each row, `[N, T, W] -> [N, W]`.
pub(super) fn first(tokens: &Tensor<3>) -> Tensor<2> {
    let [batch, _, width] = tokens.dims();
    tokens.clone().narrow(1, 0, 1).reshape([batch, width])
}

/// The modules of one copy, by the authors' names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modules<'a> {
    /// Parameters of the whole model.
    pub(super) parameters: &'a Parameters,
    /// Whether this is the momentum copy.
    pub(super) is_momentum: bool,
}

impl Modules<'_> {
    /// Returns the full name of a parameter of a module that has a momentum copy.
    pub(super) fn named(&self, module: &str, rest: &str) -> String {
        let suffix = if self.is_momentum { MOMENTUM_SUFFIX } else { "" };
        format!("{module}{suffix}.{rest}")
    }

    /// Computes a projection with bias by the parameters' full name, `[R, in] -> [R, out]`.
    pub(super) fn linear(&self, name: &str, x: Tensor<2>) -> Tensor<2> {
        let bias = self.parameters.vector(&format!("{name}.bias"));
        project(x, self.parameters.matrix(&format!("{name}.weight")), Some(bias))
    }

    /// Computes LayerNorm by the parameters' full name, `[R, W] -> [R, W]`.
    pub(super) fn norm(&self, name: &str, x: Tensor<2>, epsilon: f64) -> Tensor<2> {
        layer_norm_with(self.parameters, name, x, epsilon)
    }
}
