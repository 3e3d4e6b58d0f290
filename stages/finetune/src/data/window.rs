//! Shuffled windows of examples: the order of a training run.

use std::sync::Arc;

use super::{
    counts::DataCounts,
    example::{Example, Position},
    input::InputItem,
    shards::{InputReader, Inputs},
    similar::group_similar,
};
use crate::random::Random;

/// Largest number of bytes of encoded images in one window.
const WINDOW_BYTES: usize = 1 << 30;

/// Stream of random numbers for the order of shards.
const SHARD_STREAM: u64 = 1;
/// Stream of random numbers for the order within windows.
const WINDOW_STREAM: u64 = 2;

/// The order of shards and of the examples of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowOrder {
    /// As stored.
    Stored,
    /// Shuffled.
    Shuffled,
    /// Shuffled, then groups of this size of similar texts.
    Similar(usize),
}

/// A filled and shuffled window.
pub(super) struct Window {
    pub(super) examples: Vec<Example>,
    /// Start of the window; a resumed run skips the first `taken` examples.
    pub(super) start: Position,
    /// Counts of the samples that cannot be used, met while it was filled.
    pub(super) counts: DataCounts,
    /// Error of the first shard that could not be read to its end.
    pub(super) failure: Option<String>,
    /// Whether the epoch ends with it.
    pub(super) ends_epoch: bool,
}

/// Fills windows, epoch after epoch.
pub(super) struct Windows {
    inputs: Arc<Inputs>,
    seed: u64,
    size: usize,
    order: WindowOrder,
    at: Position,
    reader: Option<InputReader>,
}

impl Windows {
    /// Creates windows of at most `size` examples, from `at` on.
    pub(super) fn new(inputs: Arc<Inputs>, seed: u64, size: usize, order: WindowOrder, at: Position) -> Self {
        Self { inputs, seed, size: size.max(1), order, at, reader: None }
    }

    /// Returns the order of the shards in an epoch.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.inputs.len()).collect();
        if self.order != WindowOrder::Stored {
            Random::new(self.seed, &[SHARD_STREAM, epoch]).shuffle(&mut order);
        }
        order
    }

    /// Orders the examples of a window.
    fn ordered(&self, mut examples: Vec<Example>, window: u64) -> Vec<Example> {
        let mut random = Random::new(self.seed, &[WINDOW_STREAM, window]);
        if self.order != WindowOrder::Stored {
            random.shuffle(&mut examples);
        }
        match self.order {
            WindowOrder::Similar(size) => group_similar(examples, size, &mut random),
            WindowOrder::Stored | WindowOrder::Shuffled => examples,
        }
    }

    /// Fills the next window.
    pub(super) async fn next(&mut self) -> Window {
        let start = self.at;
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
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
        // A resumed run reads samples of its first shard again that earlier windows held.
        let (mut shard, mut sample) = (start.shard, start.sample);
        while window.examples.len() < self.size && bytes < WINDOW_BYTES {
            let index = match reader.next().await {
                Some(InputItem::Example(example, _permit)) => {
                    let index = example.index;
                    if index >= sample {
                        bytes += example.image.len();
                        window.examples.push(example);
                    }
                    index
                }
                Some(InputItem::Bad { index, reason, .. }) => {
                    if index >= sample {
                        window.counts.add_bad(&reason);
                    }
                    index
                }
                Some(InputItem::Failed(what)) => {
                    tracing::warn!("{what}; training goes on without the rest of it");
                    window.counts.failed_shards += 1;
                    window.failure.get_or_insert(what);
                    continue;
                }
                None => {
                    (shard, sample) = (shard + 1, 0);
                    if !reader.advance() {
                        window.ends_epoch = true;
                        break;
                    }
                    continue;
                }
            };
            sample = sample.max(index + 1);
        }
        window.examples = self.ordered(window.examples, start.window);
        self.at = Position { window: start.window + 1, shard, sample, taken: 0, ..start };
        if window.ends_epoch {
            self.at = Position { epoch: start.epoch + 1, shard: 0, sample: 0, ..self.at };
        } else {
            self.reader = Some(reader);
        }
        window
    }

    /// Returns the start of the next window.
    pub(super) fn position(&self) -> Position {
        self.at
    }
}
