//! What readers of inputs send.

use tokio::sync::OwnedSemaphorePermit;

use super::example::Example;

/// One sample of an input, or its failure.
pub(super) enum InputItem {
    /// An example, with its share of the byte budget.
    Example(Example, Option<OwnedSemaphorePermit>),
    /// A sample that cannot be used, with the reason.
    Bad {
        /// Position in its shard, from 0.
        index: u64,
        /// The reason, as counted.
        reason: String,
    },
    /// A shard that could not be read to its end, with the error.
    Failed(String),
}
