//! Training examples and positions in their order.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One image, still encoded, with its caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Number of the shard in the list of inputs.
    pub shard: usize,
    /// Position in the shard, from 0.
    pub index: u64,
    /// Webdataset key.
    pub key: String,
    /// The image as encoded in the input.
    pub image: Bytes,
    /// Suffix of the image's file name, for error messages.
    pub suffix: String,
    /// The caption, trimmed, not empty.
    pub caption: String,
}

/// A position in the order of examples, from which training resumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Number of times that the whole input was read before.
    pub epoch: u64,
    /// Number of windows before, in all epochs.
    pub window: u64,
    /// Start of the current window: position in the epoch's order of shards,
    pub shard: usize,
    /// and position in that shard.
    pub sample: u64,
    /// Number of examples of the current window that were consumed.
    pub taken: usize,
}
