//! What the reader reports beside samples.

use recaption_schemas::{Damage, InputCounts, Reject};

use crate::{PreviousOutcome, Sample};

/// What the reader found, in the shard's order.
#[derive(Debug)]
pub enum ReadItem {
    /// A sample to decode.
    Sample(Sample),
    /// A sample that the reader rejects.
    Reject {
        /// Number of the shard within the run.
        shard: usize,
        /// Position in the shard, from 0.
        index: u64,
        /// Key, reason and detail.
        reject: Reject,
    },
    /// A sample whose row of an earlier run stays.
    Kept {
        /// Number of the shard within the run.
        shard: usize,
        /// Position in the shard, from 0.
        index: u64,
        /// How the earlier run ended it.
        previous: PreviousOutcome,
    },
}

/// What a shard held, known when it was read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardContents {
    /// Samples, rejects of the reader included.
    pub samples: u64,
    /// Counts beside the samples.
    pub input: InputCounts,
    /// Set when the shard could be read only in part.
    pub damage: Option<Damage>,
}

impl ShardContents {
    /// A shard of `samples` samples that was read whole.
    #[must_use]
    pub fn whole(samples: u64) -> Self {
        Self { samples, ..Self::default() }
    }
}
