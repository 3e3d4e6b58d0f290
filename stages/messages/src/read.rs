//! What the reader yields beside samples, and where it sends what it yields.

use std::sync::atomic::AtomicU64;

use recaption_schemas::{Damage, FailureClass, InputCounts};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{BusyClock, Sample, SampleResult};

/// What the reader found, in the shard's order.
#[derive(Debug)]
pub enum ReadItem {
    /// A sample to decode.
    Sample(Sample),
    /// A sample that ends in the reader: rejected there, or kept from an earlier run.
    Ended(SampleResult),
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

/// Why a shard could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {url}: {what}")]
pub struct ReadError {
    /// URL of the shard, redacted.
    pub url: String,
    /// What happened.
    pub what: String,
    /// Data or transport.
    pub class: FailureClass,
    /// Whether another attempt in this run may succeed.
    pub is_retryable: bool,
}

/// The receiver of a channel is gone: the run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run is over")]
pub struct Closed;

/// Why the reader stopped before a shard's end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadStop {
    /// The run is over.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The shard cannot be read.
    #[error(transparent)]
    Failed(#[from] ReadError),
}

/// An event of a shard, on its way to the collector.
#[derive(Debug)]
pub enum ShardEvent {
    /// A shard was begun. `permit` keeps its place in the window of open shards until it ends.
    Begun {
        /// Number of the shard within the run.
        shard: usize,
        /// Its place in the window.
        permit: OwnedSemaphorePermit,
    },
    /// A sample ended.
    Sample(Box<SampleResult>),
    /// All samples of a shard were read.
    Read {
        /// Number of the shard within the run.
        shard: usize,
        /// What it held.
        contents: ShardContents,
    },
    /// Another worker claims a shard that is not waited for.
    ClaimedByOther {
        /// Number of the shard.
        shard: usize,
    },
    /// Another worker committed a shard before this one began it.
    CommittedByOther {
        /// Number of the shard within the run.
        shard: usize,
    },
    /// A shard cannot be read.
    Failed {
        /// Number of the shard within the run.
        shard: usize,
        /// Why.
        error: ReadError,
    },
}

/// Where the reader sends what it finds.
#[derive(Clone, Debug)]
pub enum ReadSink {
    /// Everything into one channel, in the shard's order.
    Ordered(mpsc::Sender<ReadItem>),
    /// Samples to the decoder; samples that end in the reader straight to the collector, which restores the order.
    Routed {
        /// To the decoder.
        samples: mpsc::Sender<Sample>,
        /// To the collector.
        events: mpsc::Sender<ShardEvent>,
    },
}

impl ReadSink {
    /// Sends a sample on, and waits while its channel is full.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn send_sample(&self, sample: Sample) -> Result<(), Closed> {
        match self {
            Self::Ordered(items) => items.send(ReadItem::Sample(sample)).await.map_err(|_| Closed),
            Self::Routed { samples, .. } => samples.send(sample).await.map_err(|_| Closed),
        }
    }

    /// Sends the end of a sample on, and waits while its channel is full.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn send_result(&self, result: SampleResult) -> Result<(), Closed> {
        match self {
            Self::Ordered(items) => items.send(ReadItem::Ended(result)).await.map_err(|_| Closed),
            Self::Routed { events, .. } => {
                events.send(ShardEvent::Sample(Box::new(result))).await.map_err(|_| Closed)
            }
        }
    }
}

/// What readers have read so far, all shards together.
#[derive(Debug, Default)]
pub struct ReadCounters {
    /// Bytes received.
    pub bytes: AtomicU64,
    /// Samples yielded, rejected and kept ones included.
    pub samples: AtomicU64,
    /// How busy the readers are that have a shard: not while they wait for the decoder or for memory.
    pub clock: BusyClock,
}
