//! The models of a worker, with what its stages need to know.

use std::sync::Arc;

use recaption_onnx::{
    caption::{BatchEncoder, Generator},
    tokenizer::Tokenizer,
};

use crate::{counters::CaptionCounters, scorer::Scorer, settings::CaptionWorkerSettings};

/// The loaded models of one worker and its settings.
pub(super) struct Models {
    pub(super) encoder: BatchEncoder,
    pub(super) generator: Generator,
    pub(super) scorer: Scorer,
    pub(super) tokenizer: Tokenizer,
    pub(super) settings: CaptionWorkerSettings,
    /// Largest number of images that are efficient to encode together.
    pub(super) encode_batch: usize,
    pub(super) counters: Arc<CaptionCounters>,
}
