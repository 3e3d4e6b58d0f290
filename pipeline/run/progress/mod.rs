//! Progress: what the stages of a run count while they work, and how it is shown.
//!
//! | file | what |
//! |---|---|
//! | `mod` | [`Progress`]: the counters, written by the stages |
//! | `outcomes`, `queue`, `write_meter` | how samples ended, how full queues are, what the shards' writers do |
//! | `stages` | rates and busy times of the stages, and which of them is the bottleneck |
//! | `reporter`, `text` | a bar on a terminal, lines in the log otherwise |
//!
//! Everything is counted with relaxed atomics; nobody who looks holds up a stage.

mod outcomes;
mod queue;
mod reporter;
mod stages;
mod text;
mod write_meter;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use recaption_caption::CaptionCounters;
use recaption_input::shards::ShardRef;
use recaption_messages::{BusyClock, ReadCounters};

pub(crate) use self::stages::bottleneck;
pub use self::{
    outcomes::Outcomes,
    queue::QueueGauge,
    reporter::{ProgressHandle, Reporter},
    stages::{Reading, Stage, StageReading, StageReport},
    write_meter::WriteMeter,
};
use super::{devices::Devices, plan::Plan};

/// What the decoders did.
#[derive(Debug, Default)]
pub struct DecodeCounters {
    /// Images that were decoded or rejected.
    pub samples: AtomicU64,
    /// Their encoded bytes.
    pub bytes: AtomicU64,
    /// How busy the decoding threads are: not while they wait for the captioners.
    pub clock: BusyClock,
}

/// Counters of a run, written by all stages and read by whoever shows them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Shards to be done; grows in a worker.
    pub shards: AtomicUsize,
    /// Bytes to be read; grows in a worker.
    pub bytes: AtomicU64,
    /// Bytes and samples that the readers have read.
    pub read: ReadCounters,
    /// What the decoders did.
    pub decode: DecodeCounters,
    /// What the captioners did.
    pub caption: Arc<CaptionCounters>,
    /// What the shards' writers did.
    pub write: Arc<WriteMeter>,
    /// How samples ended.
    pub outcomes: Outcomes,
    /// Shards committed; in a preview, those that were read.
    pub committed: AtomicUsize,
    /// Shards that failed.
    pub failed: AtomicUsize,
    /// Samples waiting to be decoded.
    pub decode_queue: QueueGauge,
    /// Images waiting for a model.
    pub caption_queue: QueueGauge,
    /// Results waiting to be written.
    pub write_queue: QueueGauge,
    /// What computes.
    pub devices: Option<Arc<Devices>>,
    /// Number of samples after which the work ends, whatever the bytes; `None` where everything is read.
    expected: Option<u64>,
    /// When the models were loaded and the first shard was begun.
    began: OnceLock<Instant>,
}

impl Progress {
    /// Of a plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self::of(plan.todo.len(), plan.bytes())
    }

    /// Of shards that are all to be read.
    #[must_use]
    pub fn of_shards(shards: &[ShardRef]) -> Self {
        Self::of(shards.len(), shards.iter().map(ShardRef::size).sum())
    }

    fn of(shards: usize, bytes: u64) -> Self {
        Self { shards: AtomicUsize::new(shards), bytes: AtomicU64::new(bytes), ..Self::default() }
    }

    /// Counts one more shard to be done.
    pub fn add_shard(&self, bytes: u64) {
        self.shards.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// With rates per device.
    #[must_use]
    pub fn on(self, devices: &Arc<Devices>) -> Self {
        Self { devices: Some(Arc::clone(devices)), ..self }
    }

    /// With the number of samples after which the work ends, where not everything is read.
    #[must_use]
    pub fn expecting(self, samples: Option<u64>) -> Self {
        Self { expected: samples, ..self }
    }

    /// With what the shards' writers of an output do.
    #[must_use]
    pub fn writing(self, write: &Arc<WriteMeter>) -> Self {
        Self { write: Arc::clone(write), ..self }
    }

    /// Notes that the models are loaded and reading begins, unless it was noted before.
    pub fn begin(&self) {
        self.began.get_or_init(Instant::now);
    }

    /// Estimates the fraction of the work that has ended, 0 to 1, for the ETA: of the bytes or, where not all are read, of the
    /// samples.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        let (read, finished) = (self.read.samples.load(Relaxed), self.outcomes.finished());
        let by_samples = self.expected.map_or(0.0, |expected| finished as f64 / expected.max(1) as f64);
        let bytes = self.read.bytes.load(Relaxed) as f64 / (self.bytes.load(Relaxed).max(1)) as f64;
        let by_bytes = if read == 0 { 0.0 } else { bytes * finished as f64 / read as f64 };
        by_bytes.max(by_samples).min(1.0)
    }

    /// Estimates the seconds until all samples have ended; `None` as long as none has.
    #[must_use]
    pub fn remaining_seconds(&self) -> Option<f64> {
        let fraction = self.fraction();
        let elapsed = self.began.get()?.elapsed().as_secs_f64();
        (fraction > 0.0).then(|| elapsed * (1.0 - fraction) / fraction)
    }

    /// Reads the counters of all stages.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let stage = |samples: &AtomicU64, bytes: &AtomicU64, busy_seconds| StageReading {
            samples: samples.load(Relaxed),
            bytes: bytes.load(Relaxed),
            busy_seconds,
        };
        let (read, decode, caption) = (&self.read, &self.decode, &self.caption);
        Reading {
            at: Instant::now(),
            stages: [
                stage(&read.samples, &read.bytes, read.clock.seconds()),
                stage(&decode.samples, &decode.bytes, decode.clock.seconds()),
                stage(&caption.images, &caption.pixel_bytes, caption.busy_seconds()),
                StageReading {
                    samples: self.outcomes.finished(),
                    bytes: self.write.bytes(),
                    busy_seconds: self.write.busy_seconds(),
                },
            ],
        }
    }

    /// Returns what each stage did from the first shard until now; empty if no shard was begun.
    #[must_use]
    pub fn stage_reports(&self) -> Vec<StageReport> {
        let Some(began) = self.began.get() else { return Vec::new() };
        self.reading().since(&Reading::zero(*began)).to_vec()
    }
}
