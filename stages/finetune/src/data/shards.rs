//! Inputs in order, read to examples: tar shards, or the parts of an output of `recaption run`.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use recaption_config::derive::schemars::JsonSchema;
use recaption_input::{
    read::{InputFormat, ReadRequest, ReadSettings, read_shard},
    shards::{ShardRef, list_shards},
};
use recaption_messages::{
    ByteBudget, ReadCounters, ReadError, ReadItem, ReadSink, ReadStop, Sample, SampleOutcome,
};
use recaption_schemas::{FailureClass, sha256_hex};
use recaption_store::{RetryPolicy, Stores};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    caption::Caption,
    error::DataError,
    example::Example,
    input::InputItem,
    parquet::{self, OutputPart},
};

/// Number of shards that are read ahead of the current one.
const READ_AHEAD: usize = 3;
/// Number of samples of one shard that wait.
const QUEUE: usize = 64;
/// Byte budget of the waiting samples of one shard. Each shard has its own: with a shared one, shards that are read ahead would
/// block the current one.
const SHARD_BYTES: usize = 64 << 20;
/// Retries at a shard whose transport fails.
const SHARD_RETRIES: RetryPolicy = RetryPolicy::new(3, Duration::from_secs(2), Duration::from_secs(8));

/// Format of the inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(crate = "recaption_config::derive::schemars")]
pub enum Format {
    /// Webdataset tar shards.
    #[default]
    Shards,
    /// Outputs of `recaption run` with `output.images = "embed"`.
    Output,
}

/// One input.
#[derive(Clone)]
pub(super) enum Input {
    Tar(ShardRef),
    Part(OutputPart),
}

/// All inputs, listed.
#[derive(Clone)]
pub struct Inputs {
    list: Vec<Input>,
    caption: Caption,
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inputs")
            .field("len", &self.len())
            .field("caption", &self.caption)
            .finish_non_exhaustive()
    }
}

impl Inputs {
    /// Lists the inputs.
    ///
    /// # Errors
    /// Fails when a pattern matches nothing, a store cannot be listed, or an output has no commit records.
    pub async fn list(patterns: &[String], format: Format, caption: Caption) -> Result<Self, DataError> {
        let mut stores = Stores::default();
        let list = match format {
            Format::Shards => list_shards(&mut stores, patterns, InputFormat::Auto)
                .await?
                .into_iter()
                .map(Input::Tar)
                .collect(),
            Format::Output => {
                let mut parts = Vec::new();
                for url in patterns {
                    parts.extend(parquet::parts(&mut stores, url).await?.into_iter().map(Input::Part));
                }
                parts
            }
        };
        Ok(Self { list, caption })
    }

    /// Returns the number of inputs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns the digest of names, sizes and entity tags, in order. A [`Position`](super::Position) is valid for one digest.
    #[must_use]
    pub fn digest(&self) -> String {
        let names: Vec<String> = self
            .list
            .iter()
            .map(|input| match input {
                Input::Tar(shard) => shard.fingerprint(),
                Input::Part(part) => part.fingerprint(),
            })
            .collect();
        sha256_hex(names.join("\n").as_bytes())
    }

    /// Returns whether there are no inputs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns the configured place of captions.
    #[must_use]
    pub fn caption(&self) -> String {
        self.caption.clone().into()
    }

    /// Starts reading the inputs `order`, one after another, with [`READ_AHEAD`] shards ahead.
    pub(super) fn read(self: Arc<Self>, order: Vec<usize>) -> InputReader {
        InputReader { inputs: self, order: order.into(), ahead: VecDeque::new() }
    }

    async fn read_one(&self, number: usize, to: mpsc::Sender<InputItem>) {
        let failed = match &self.list[number] {
            Input::Tar(shard) => self.read_tar_with_retries(number, shard, &to).await,
            Input::Part(part) => parquet::read(number, part, &self.caption, &to).await,
        };
        if let Err(what) = failed {
            // The receiver may be gone.
            let _ = to.send(InputItem::Failed(what)).await;
        }
    }

    /// Reads a shard; after a failure of the transport, again from the first sample that was not sent.
    async fn read_tar_with_retries(
        &self,
        number: usize,
        shard: &ShardRef,
        to: &mpsc::Sender<InputItem>,
    ) -> Result<(), String> {
        let (mut next, mut budget) = (0, SHARD_RETRIES.budget());
        loop {
            let error = match self.read_tar(number, shard, &mut next, to).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let transport = error.class == FailureClass::Transport;
            let Some(pause) = transport.then(|| budget.next_pause(None)).flatten() else {
                return Err(error.to_string());
            };
            tracing::warn!(%error, attempts_left = budget.left(), "shard cannot be read; retrying");
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends the samples from position `next` on, and advances it.
    async fn read_tar(
        &self,
        number: usize,
        shard: &ShardRef,
        next: &mut u64,
        to: &mpsc::Sender<InputItem>,
    ) -> Result<(), ReadError> {
        let budget = ByteBudget::new(SHARD_BYTES);
        let (send, mut found) = mpsc::channel(QUEUE);
        let reading = async {
            let (settings, counters, sink) =
                (ReadSettings::default(), ReadCounters::default(), ReadSink::Ordered(send));
            let (previous, budget, counters) = (None, &budget, &counters);
            let settings = &settings;
            read_shard(ReadRequest { number, shard, settings, budget, counters, previous, sink: &sink }).await
        };
        // Ends, and thereby the reader too, when `to` is closed.
        let passing = async move {
            while let Some(found) = found.recv().await {
                let (index, item) = match found {
                    ReadItem::Sample(sample) => (sample.index, self.example(sample)),
                    ReadItem::Ended(result) => match result.outcome {
                        SampleOutcome::Reject(reject) => {
                            let (index, reason) = (result.index, reject.reason.as_str().to_owned());
                            (index, InputItem::Bad { index, reason })
                        }
                        SampleOutcome::Caption(_) | SampleOutcome::Kept(_) => continue,
                    },
                };
                if index < *next {
                    continue;
                }
                if to.send(item).await.is_err() {
                    break;
                }
                *next = index + 1;
            }
        };
        let (contents, ()) = tokio::join!(reading, passing);
        let damage = match contents {
            Ok(contents) => contents.damage,
            Err(ReadStop::Failed(error)) => return Err(error),
            Err(ReadStop::Closed(_)) => None,
        };
        match damage {
            Some(damage) => Err(ReadError {
                url: shard.url.clone(),
                what: format!("byte {}: {}", damage.offset, damage.detail),
                class: FailureClass::Data,
                is_retryable: false,
            }),
            None => Ok(()),
        }
    }

    /// Finds a sample's caption.
    fn example(&self, sample: Sample) -> InputItem {
        let Sample { shard, index, key, image, suffix, org_caption, meta, permit, .. } = sample;
        let text = org_caption.as_ref().map(recaption_schemas::OriginalCaption::as_str);
        match self.caption.find(text, text, meta.as_deref()) {
            Ok(caption) => InputItem::Example(Example { shard, index, key, image, suffix, caption }, permit),
            Err(reason) => InputItem::Bad { index, reason: reason.to_owned() },
        }
    }
}

/// Inputs that are being read.
pub(super) struct InputReader {
    inputs: Arc<Inputs>,
    order: VecDeque<usize>,
    ahead: VecDeque<mpsc::Receiver<InputItem>>,
}

impl InputReader {
    /// Returns the next item; `None` ends the current input (see [`InputReader::advance`]).
    pub(super) async fn next(&mut self) -> Option<InputItem> {
        self.fill();
        match self.ahead.front_mut() {
            Some(items) => items.recv().await,
            None => None,
        }
    }

    /// Moves to the next input; returns `false` when there is none.
    pub(super) fn advance(&mut self) -> bool {
        self.ahead.pop_front();
        self.fill();
        !self.ahead.is_empty()
    }

    /// Starts reading inputs until enough are ahead.
    fn fill(&mut self) {
        while self.ahead.len() <= READ_AHEAD
            && let Some(number) = self.order.pop_front()
        {
            let (to, items) = mpsc::channel(QUEUE);
            let inputs = Arc::clone(&self.inputs);
            tokio::spawn(async move { inputs.read_one(number, to).await });
            self.ahead.push_back(items);
        }
    }
}
