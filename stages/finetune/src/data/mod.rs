//! Training data: shards, or outputs of `recaption run`, to examples, shuffled windows and batches. Reading, decoding and resizing
//! are those of a run.
//!
//! ```text
//! Inputs -> InputReader -> Windows (shuffle) -> BatchBuilder (decode, tokenise) -> Loader -> training loop
//! ```
//!
//! The order depends on the seed alone. A window of bounded size is filled from shards in the epoch's order, shuffled and
//! consumed while the next one is filled, so two are in memory. A [`Position`] is a place in that order, from which a resumed
//! run continues with the sample that it would have seen. Bad samples are counted by reason and never fatal; an epoch without
//! one usable sample is.
//!
//! | stage | threads | queue |
//! |---|---|---|
//! | read | tokio, one task per shard, 3 shards ahead | 64 samples and 64 MB per shard |
//! | shuffle | tokio | one window ahead |
//! | decode, tokenise | `loader` thread, rayon | 2 batches |

mod caption;
mod counts;
mod crop;
mod error;
mod example;
mod input;
mod loader;
mod parquet;
mod shards;
mod similar;
mod window;

pub use self::{
    caption::Caption,
    counts::DataCounts,
    crop::CropSettings,
    error::DataError,
    example::{Example, Position},
    loader::{LoadedBatch, Loader, LoaderSettings, load_all},
    shards::{Format, Inputs},
};
