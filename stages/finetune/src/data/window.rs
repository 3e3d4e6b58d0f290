//! Examples in windows, shuffled: the order of a training run.

use std::sync::Arc;

use super::{
    DataCounts, Example, Position,
    shards::{Inputs, Item, Reading},
};
use crate::random::Random;

/// Bytes of stored images in one window, at most.
const WINDOW_BYTES: usize = 1 << 30;

/// Streams of random numbers, so that one seed serves all.
const SHARDS: u64 = 1;
const EXAMPLES: u64 = 2;

/// A window, ready to hand out.
pub struct Window {
    /// Its examples, shuffled.
    pub examples: Vec<Example>,
    /// Where it begins; `taken` is what a resumed run leaves out.
    pub start: Position,
    /// Samples that were met while filling it and cannot be used.
    pub counts: DataCounts,
    /// The first shard that could not be read to its end, if one could not.
    pub failure: Option<String>,
    /// Whether the input ends with it.
    pub ends_epoch: bool,
}

/// Fills windows, epoch after epoch.
pub struct Windows {
    inputs: Arc<Inputs>,
    seed: u64,
    size: usize,
    shuffle: bool,
    at: Position,
    reading: Option<Reading>,
}

impl Windows {
    /// Windows of at most `size` examples, from `at` on. Without `shuffle` shards and examples come as they lie.
    pub fn new(inputs: Arc<Inputs>, seed: u64, size: usize, shuffle: bool, at: Position) -> Self {
        Self { inputs, seed, size: size.max(1), shuffle, at, reading: None }
    }

    /// Order of the shards in an epoch.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.inputs.len()).collect();
        if self.shuffle {
            Random::new(self.seed, &[SHARDS, epoch]).shuffle(&mut order);
        }
        order
    }

    /// Fills the next window.
    pub async fn next(&mut self) -> Window {
        let start = self.at;
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => Arc::clone(&self.inputs)
                .read(self.order(start.epoch).split_off(start.shard.min(self.inputs.len()))),
        };
        let mut window = Window {
            examples: Vec::new(),
            start,
            counts: DataCounts::default(),
            failure: None,
            ends_epoch: false,
        };
        let mut bytes = 0;
        // A resumed run meets samples of its first shard that earlier windows held.
        let (mut shard, mut sample) = (start.shard, start.sample);
        while window.examples.len() < self.size && bytes < WINDOW_BYTES {
            let index = match reading.next().await {
                Some(Item::Example(example, _held)) => {
                    let index = example.index;
                    if index >= sample {
                        bytes += example.image.len();
                        window.examples.push(example);
                    }
                    index
                }
                Some(Item::Bad { index, reason, .. }) => {
                    if index >= sample {
                        window.counts.add_bad(&reason);
                    }
                    index
                }
                Some(Item::Failed(what)) => {
                    tracing::warn!("{what}; training goes on without the rest of it");
                    window.counts.failed_shards += 1;
                    window.failure.get_or_insert(what);
                    continue;
                }
                None => {
                    (shard, sample) = (shard + 1, 0);
                    if !reading.advance() {
                        window.ends_epoch = true;
                        break;
                    }
                    continue;
                }
            };
            sample = sample.max(index + 1);
        }
        if self.shuffle {
            Random::new(self.seed, &[EXAMPLES, start.window]).shuffle(&mut window.examples);
        }
        self.at = Position { window: start.window + 1, shard, sample, taken: 0, ..start };
        if window.ends_epoch {
            self.at = Position { epoch: start.epoch + 1, shard: 0, sample: 0, ..self.at };
        } else {
            self.reading = Some(reading);
        }
        window
    }

    /// Where the next window begins.
    pub fn position(&self) -> Position {
        self.at
    }
}
