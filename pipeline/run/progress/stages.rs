//! Rates and busy times of the stages, and which of them is the bottleneck.
//!
//! The bottleneck is the busiest stage: what the others wait for works all the time, and they do not. A stage is busy as far as
//! its workers have input and are not held up by what comes after them:
//!
//! | stage | busy |
//! |---|---|
//! | read | share of the readers with a shard that do not wait for the decoders or for `input.buffer_bytes` |
//! | decode | share of the decoding threads that decode |
//! | caption | share of the time in model calls, without decoder steps that lack images for more than a quarter of the slots |
//! | write | the collector, or the share of the places for open shards that commits take, whichever is larger |

use std::time::{Duration, Instant};

use serde::Serialize;

/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reads shards.
    Read,
    /// Decodes and resizes images.
    Decode,
    /// Encodes images, generates and scores captions.
    Caption,
    /// Writes and commits rows.
    Write,
}

impl Stage {
    /// All stages, in the order of the data flow.
    pub const ALL: [Self; 4] = [Self::Read, Self::Decode, Self::Caption, Self::Write];

    /// Returns the name of the stage, a verb.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Decode => "decode",
            Self::Caption => "caption",
            Self::Write => "write",
        }
    }

    /// Returns the name of what works in the stage.
    #[must_use]
    pub fn worker(self) -> &'static str {
        match self {
            Self::Read => "reader",
            Self::Decode => "decoder",
            Self::Caption => "captioner",
            Self::Write => "writer",
        }
    }
}

/// Totals of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageReading {
    /// Samples.
    pub samples: u64,
    /// Bytes: read from the input, encoded images, pixels, parts that were committed.
    pub bytes: u64,
    /// Seconds of a fully busy stage.
    pub busy_seconds: f64,
}

/// Totals of all stages at one time.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// When they were read.
    pub at: Instant,
    /// In the order of [`Stage::ALL`].
    pub stages: [StageReading; 4],
}

/// What a stage did in some time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageReport {
    /// The stage.
    pub stage: Stage,
    /// Samples.
    pub samples: u64,
    /// Bytes, see [`StageReading::bytes`].
    pub bytes: u64,
    /// Samples per second.
    pub samples_per_second: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Share of the time that the stage was busy, 0 to 1.
    pub busy: f64,
}

impl Reading {
    /// The totals before anything was done.
    #[must_use]
    pub fn zero(at: Instant) -> Self {
        Self { at, stages: [StageReading::default(); 4] }
    }

    /// Returns what the stages did since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> [StageReport; 4] {
        let seconds = self.at.saturating_duration_since(earlier.at).as_secs_f64().max(f64::MIN_POSITIVE);
        Stage::ALL.map(|stage| {
            let (now, then) = (self.stages[stage as usize], earlier.stages[stage as usize]);
            let samples = now.samples.saturating_sub(then.samples);
            let bytes = now.bytes.saturating_sub(then.bytes);
            StageReport {
                stage,
                samples,
                bytes,
                samples_per_second: samples as f64 / seconds,
                bytes_per_second: bytes as f64 / seconds,
                busy: ((now.busy_seconds - then.busy_seconds) / seconds).clamp(0.0, 1.0),
            }
        })
    }
}

/// Returns the busiest stage, if any is busy.
#[must_use]
pub(crate) fn bottleneck(stages: &[StageReport]) -> Option<&StageReport> {
    stages.iter().filter(|report| report.busy > 0.0).max_by(|a, b| a.busy.total_cmp(&b.busy))
}

/// Rates over the last ten seconds or so.
#[derive(Debug)]
pub(super) struct RecentRates {
    readings: std::collections::VecDeque<Reading>,
}

impl RecentRates {
    const WINDOW: Duration = Duration::from_secs(10);

    pub(super) fn new(now: Instant) -> Self {
        Self { readings: [Reading::zero(now)].into() }
    }

    pub(super) fn update(&mut self, now: Reading) -> [StageReport; 4] {
        self.readings.push_back(now);
        let is_old = |reading: &Reading| now.at.duration_since(reading.at) > Self::WINDOW;
        while self.readings.len() > 2 && is_old(&self.readings[0]) {
            self.readings.pop_front();
        }
        now.since(&self.readings[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, samples: u64, busy: [f64; 4]) -> Reading {
        Reading {
            at,
            stages: busy.map(|busy_seconds| StageReading { samples, bytes: 10 * samples, busy_seconds }),
        }
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let start = Instant::now();
        let mut rates = RecentRates::new(start);
        for second in 1..=30 {
            let reports =
                rates.update(reading(start + Duration::from_secs(second), second * second, [0.0; 4]));
            assert!(reports[0].samples_per_second > 0.0);
        }
        let reports = rates.update(reading(start + Duration::from_secs(31), 31 * 31, [0.0; 4]));
        let rate = reports[3].samples_per_second;
        assert!((rate - (31.0 * 31.0 - 21.0 * 21.0) / 10.0).abs() < 5.0, "{rate}");
        assert!((reports[1].bytes_per_second - 10.0 * rate).abs() < 1e-9);
    }

    #[test]
    fn busiest_stage_is_the_bottleneck() {
        let start = Instant::now();
        let (before, after) = (
            reading(start, 0, [9.0, 9.0, 0.0, 0.0]),
            reading(start + Duration::from_secs(10), 5, [10.0, 14.0, 9.7, 30.0]),
        );
        let mut reports = after.since(&before);
        assert_eq!(reports[3].busy, 1.0, "never more than all the time");
        reports[3].busy = 0.0;
        let worst = bottleneck(&reports).expect("a busy stage");
        assert_eq!((worst.stage.worker(), (100.0 * worst.busy).round()), ("captioner", 97.0));
        assert_eq!(bottleneck(&before.since(&before)), None, "nothing was done");
    }
}
