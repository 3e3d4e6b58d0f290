//! Inputs -> examples in order: tar shards, or the parts of a finished run.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{DataError, Example, parquet};

/// Shards that are read ahead of the one whose turn it is.
const READ_AHEAD: usize = 3;
/// Samples of one shard that wait.
const QUEUE: usize = 64;
/// Bytes that the waiting samples of one shard hold: a budget of its own each, or the shards that are read ahead would take
/// what the first one waits for.
const SHARD_BYTES: usize = 64 << 20;
/// Further attempts at a shard whose transport fails.
const SHARD_RETRIES: RetryPolicy = RetryPolicy::new(3, Duration::from_secs(2), Duration::from_secs(8));

/// What the inputs are.
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

/// Where a sample's caption stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Caption {
    /// The caption member of a shard (`txt`), or the synthetic `caption` of an output.
    Text,
    /// The `org_caption` of an output; the caption member of a shard.
    Original,
    /// A key of the sample's own JSON.
    Json(String),
}

impl TryFrom<String> for Caption {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "text" => Ok(Self::Text),
            "original" => Ok(Self::Original),
            _ => match text.strip_prefix("json.") {
                Some(key) if !key.is_empty() => Ok(Self::Json(key.to_owned())),
                _ => Err(format!("`{text}` names no caption")),
            },
        }
    }
}

impl From<Caption> for String {
    fn from(caption: Caption) -> Self {
        match caption {
            Caption::Text => "text".into(),
            Caption::Original => "original".into(),
            Caption::Json(key) => format!("json.{key}"),
        }
    }
}

impl Caption {
    /// The caption of a sample, white space trimmed.
    ///
    /// # Errors
    /// The reason for which there is none.
    pub(super) fn find(
        &self,
        text: Option<&str>,
        original: Option<&str>,
        json: Option<&str>,
    ) -> Result<String, &'static str> {
        let found = match self {
            Self::Text => text.map(str::to_owned),
            Self::Original => original.map(str::to_owned),
            Self::Json(key) => {
                let json = json.ok_or("no_json")?;
                let value: serde_json::Value = serde_json::from_str(json).map_err(|_| "malformed_json")?;
                value.get(key).and_then(serde_json::Value::as_str).map(str::to_owned)
            }
        };
        let found = found.ok_or("no_caption")?;
        let trimmed = found.trim();
        if trimmed.is_empty() { Err("no_caption") } else { Ok(trimmed.to_owned()) }
    }
}

/// One input to read.
#[derive(Clone)]
pub(super) enum Input {
    Tar(ShardRef),
    Part(parquet::Part),
}

/// All inputs, listed.
#[derive(Clone)]
pub struct Inputs {
    list: Vec<Input>,
    caption: Caption,
}

/// What comes out of the inputs.
pub(super) enum Item {
    /// An example, with its share of the bytes that may wait.
    Example(Example, Option<OwnedSemaphorePermit>),
    /// A sample that cannot be used, with the reason.
    Bad {
        /// Position in its shard.
        index: u64,
        /// Why.
        reason: String,
    },
    /// A shard that could not be read to its end.
    Failed(String),
}

impl Inputs {
    /// Lists the inputs.
    ///
    /// # Errors
    /// A pattern that matches nothing, a store that refuses, an output without embedded images.
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

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Digest of what they are: names, sizes and entity tags, in order. A place in the data means nothing in another list.
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

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Where captions are looked for.
    #[must_use]
    pub fn caption(&self) -> String {
        self.caption.clone().into()
    }

    /// Reads the inputs `order` one after another, and some of the next ahead.
    pub(super) fn read(self: Arc<Self>, order: Vec<usize>) -> Reading {
        Reading { inputs: self, order: order.into(), ahead: VecDeque::new() }
    }

    async fn read_one(&self, number: usize, to: mpsc::Sender<Item>) {
        let failed = match &self.list[number] {
            Input::Tar(shard) => self.read_tar_again(number, shard, &to).await,
            Input::Part(part) => parquet::read(number, part, &self.caption, &to).await,
        };
        if let Err(what) = failed {
            // Nobody listens any more: nothing to tell.
            let _ = to.send(Item::Failed(what)).await;
        }
    }

    /// Reads a shard; where the way to it fails, again from the sample that was not handed on.
    async fn read_tar_again(
        &self,
        number: usize,
        shard: &ShardRef,
        to: &mpsc::Sender<Item>,
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

    /// Hands on the samples from position `next` on, and counts it up.
    async fn read_tar(
        &self,
        number: usize,
        shard: &ShardRef,
        next: &mut u64,
        to: &mpsc::Sender<Item>,
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
        // The receiver is dropped when nobody listens: the reader then ends too.
        let passing = async move {
            while let Some(found) = found.recv().await {
                let (index, item) = match found {
                    ReadItem::Sample(sample) => (sample.index, self.example(sample)),
                    ReadItem::Ended(result) => match result.outcome {
                        SampleOutcome::Reject(reject) => {
                            let (index, reason) = (result.index, reject.reason.as_str().to_owned());
                            (index, Item::Bad { index, reason })
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

    fn example(&self, sample: Sample) -> Item {
        let Sample { shard, index, key, image, suffix, org_caption, meta, permit, .. } = sample;
        let text = org_caption.as_ref().map(recaption_schemas::OriginalCaption::as_str);
        match self.caption.find(text, text, meta.as_deref()) {
            Ok(caption) => Item::Example(Example { shard, index, key, image, suffix, caption }, permit),
            Err(reason) => Item::Bad { index, reason: reason.to_owned() },
        }
    }
}

/// Inputs being read.
pub(super) struct Reading {
    inputs: Arc<Inputs>,
    order: VecDeque<usize>,
    ahead: VecDeque<mpsc::Receiver<Item>>,
}

impl Reading {
    /// The next item; `None` ends the current input (see [`Reading::advance`]).
    pub async fn next(&mut self) -> Option<Item> {
        self.fill();
        match self.ahead.front_mut() {
            Some(items) => items.recv().await,
            None => None,
        }
    }

    /// Goes on with the next input; false when there is none.
    pub fn advance(&mut self) -> bool {
        self.ahead.pop_front();
        self.fill();
        !self.ahead.is_empty()
    }

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
