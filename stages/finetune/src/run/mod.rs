//! A training run from the recipe to the model folder: [`train`].
//!
//! ```text
//! recipe -> model, data, optimizer (or the newest checkpoint) -> steps -> open_clip directory -> ONNX -> verified -> card
//!                                                                      \-> ALBEF directory -> golden file -> card
//! ```
//!
//! The loop runs on its caller's thread; batches are loaded by [`Loader`](crate::data::Loader)'s. Everything that a step depends on
//! is in a checkpoint, so that a run that was stopped or killed continues bit-identically.

mod albef_golden;
mod card;
mod error;
mod finish;
mod golden;
mod learner;
mod metrics;
mod metrics_line;
mod open;
mod options;
mod pairs;
mod progress_bars;
mod state;
mod stop;
mod train;
mod training;
mod validate;

pub use self::{
    albef_golden::{TrainingCheck, compare_albef, write_albef_golden},
    error::RecipeMismatch,
    finish::TrainedModel,
    golden::write_golden,
    metrics::read as read_metrics,
    metrics_line::{MetricsLine, TrainLine, ValidationLine},
    options::{TrainOptions, TrainOutcome},
    pairs::{PairReport, measure_pairs},
    progress_bars::stderr_above_bars,
    state::StateError,
    stop::StopSignal,
    train::train,
    validate::{Validation, validate, validate_albef},
};
