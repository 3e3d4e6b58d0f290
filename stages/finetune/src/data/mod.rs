//! Shards or our own Parquet -> examples -> shuffled windows -> batches, by the same reader, decoder and resizer as a run.
//!
//! The order depends on the seed alone. A window of bounded size is filled from shards in the epoch's order, shuffled and
//! handed out; the next one is filled meanwhile, so two are in memory. A [`Position`] names a place in that order, so that a resumed run goes
//! on with the sample it would have seen. Bad samples are counted by reason, never fatal; an epoch without one good
//! sample is.

mod crop;
mod loader;
mod parquet;
mod shards;
mod window;

use std::collections::BTreeMap;

use bytes::Bytes;
pub use crop::CropSettings;
pub use loader::{Loaded, Loader, LoaderSettings, load_all};
use serde::{Deserialize, Serialize};
pub use shards::{Caption, Format, Inputs};

/// One image with its caption, not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Number of its shard in the list of inputs.
    pub shard: usize,
    /// Position in the shard.
    pub index: u64,
    /// Webdataset key.
    pub key: String,
    /// Stored image.
    pub image: Bytes,
    /// Suffix of the image's name, which only shapes messages.
    pub suffix: String,
    /// Its caption, not empty.
    pub caption: String,
}

/// A place in the order of examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// How often the whole input was read before.
    pub epoch: u64,
    /// Windows handed out before, in all epochs.
    pub window: u64,
    /// Where the current window begins: place in the epoch's order of shards,
    pub shard: usize,
    /// and position in that shard.
    pub sample: u64,
    /// Examples of the current window that were handed out.
    pub taken: usize,
}

/// What became of the samples that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataCounts {
    /// Samples that became part of a batch.
    pub used: u64,
    /// Samples that did not, by reason.
    pub bad: BTreeMap<String, u64>,
    /// Shards that could not be read to their end.
    pub failed_shards: u64,
    /// Texts longer than the context, cut.
    pub texts_cut: u64,
}

impl DataCounts {
    /// One more bad sample.
    pub fn add_bad(&mut self, reason: &str) {
        *self.bad.entry(reason.to_owned()).or_default() += 1;
    }

    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        self.used += other.used;
        self.failed_shards += other.failed_shards;
        self.texts_cut += other.texts_cut;
        for (reason, n) in &other.bad {
            *self.bad.entry(reason.clone()).or_default() += n;
        }
    }
}

/// Why there are no batches.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The inputs cannot be listed.
    #[error(transparent)]
    List(#[from] recaption_input::shards::ListError),
    /// A finished output cannot be read.
    #[error("training data: {0}")]
    Output(String),
    /// Nothing could be used.
    #[error(
        "training data: not one usable sample in {shards} shard(s): {counts}; `data.caption` is `{caption}`{failure}"
    )]
    Nothing {
        /// Shards read.
        shards: usize,
        /// Reasons.
        counts: String,
        /// Where captions were looked for.
        caption: String,
        /// What the first shard that failed said, or nothing.
        failure: String,
    },
    /// A thread ended early: a defect.
    #[error("the loader's thread broke down: {0}")]
    Broken(String),
}

impl std::fmt::Display for DataCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} used", self.used)?;
        for (reason, n) in &self.bad {
            write!(f, ", {n} {reason}")?;
        }
        if self.failed_shards > 0 {
            write!(f, ", {} shards failed", self.failed_shards)?;
        }
        Ok(())
    }
}
