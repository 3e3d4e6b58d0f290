//! What is compared, and on which texts.

use crate::{model::ModelFolder, runtime::SessionOptions};

/// A model and how its sessions run.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The model.
    pub model: &'a ModelFolder,
    /// How its sessions run.
    pub options: &'a SessionOptions,
}

/// A text that both sides read with an image.
pub(super) struct ForcedText {
    /// Number of the image.
    pub(super) image: usize,
    /// Start token, prompt, and the tokens that both captions share.
    pub(super) ids: Vec<i64>,
    /// The tokens that differ after them: the reference's, the device's.
    pub(super) diverging: Option<[i64; 2]>,
}
