//! What travels between the stages, each type once.
//!
//! | type | from | to |
//! |---|---|---|
//! | [`Sample`] | reader (`recaption_input`) | decoder (`recaption_image`) |
//! | [`PreparedSample`] | decoder | captioner (`recaption_caption`) |
//! | [`ShardEvent`], with a [`SampleResult`] or [`ShardContents`] in it | reader, decoder, captioner | collector (`pipeline/run`) |
//!
//! [`BusyClock`] and [`Histogram`] measure the stages while they work. [`ReadSink`] routes what the reader finds; [`ByteBudget`] bounds the image bytes that are in flight. [`PreviousRows`] says what an earlier run made of a
//! sample. [`ImageFormat`] is here because the reader and the decoder must agree on what an image is.
//!
//! Stages depend on this crate and never on each other. There is no I/O here, and no thread.

#![forbid(unsafe_code)]

mod budget;
mod busy_clock;
mod histogram;
mod image_format;
mod prepared;
mod previous_rows;
mod read;
mod result;
mod sample;

pub use budget::ByteBudget;
pub use busy_clock::{BusyClock, Working};
pub use histogram::{Histogram, HistogramCounts};
pub use image_format::{ImageFormat, SNIFF_BYTES, is_image, is_markup, other_format};
pub use prepared::PreparedSample;
pub use previous_rows::{PreviousOutcome, PreviousRows, RetryDecision};
pub use read::{Closed, ReadCounters, ReadError, ReadItem, ReadSink, ReadStop, ShardContents, ShardEvent};
pub use result::{Embeddings, SampleOutcome, SampleResult};
pub use sample::Sample;

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
