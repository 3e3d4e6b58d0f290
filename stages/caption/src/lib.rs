//! Captions prepared images: [`PreparedSample`](recaption_messages::PreparedSample) in,
//! [`SampleResult`](recaption_messages::SampleResult) out.
//!
//! ```text
//! decoder -> ImageQueue -> encode -> generate -> score, choose, filter -> collector
//! ```
//!
//! A [`CaptionWorker`] owns one copy of the models and runs the stages in between. It does no I/O beyond loading models.
//!
//! | where | threads | queues and their bounds |
//! |---|---|---|
//! | CPU | one, since every core is busy already | none; a batch is at most a quarter of the slots |
//! | GPU | one each for encoding, generating and scoring | encoded batches: rendezvous (0); captioned images: 128 |
//! | [`ImageQueue`] | any number of workers | the decoder's channel, bounded by its creator; requeued images: unbounded, since no more than were taken can come back |
//!
//! On a GPU one encoded batch waits for slots while the next is encoded, and captions are detokenised, scored and sent on while
//! tokens are generated. A row depends on neither threads nor batches; the collector restores the order.
//!
//! Nothing is dropped. A sample ends as a row, as a reject of the filter, or as a `model_error` reject when a model fails on it
//! alone and succeeds on a grey probe image. When a model fails for any other reason, [`CaptionWorker::run`] ends with a
//! [`CaptionFailure`] that holds every sample it had taken and not finished.
//!
//! Text rules and thresholds need no model: see [`rules::TextRules`] and [`filter::Filter`].

#![forbid(unsafe_code)]

mod counters;
mod encode;
mod error;
pub mod filter;
mod generate;
mod interruption;
mod queue;
pub mod rules;
pub mod scorer;
mod scoring;
mod settings;
mod worker;

pub use self::{
    counters::CaptionCounters,
    error::{CaptionError, CaptionFailure},
    queue::ImageQueue,
    settings::CaptionWorkerSettings,
    worker::{CaptionWorker, score_group},
};

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
