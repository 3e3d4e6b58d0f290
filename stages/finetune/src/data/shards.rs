//! Inputs -> examples in order: tar shards, or the parts of a finished run.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
};

use recaption_stages::{
    read::{ByteBudget, Found, Sample, read_shard},
    shards::{ShardRef, list_shards},
    store::Stores,
    tar::TarLimits,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{DataError, Example, parquet};

/// Shards that are read ahead of the one whose turn it is.
const READ_AHEAD: usize = 3;
/// Samples of one shard that wait.
const QUEUE: usize = 64;
/// Bytes that waiting samples hold together.
const READ_AHEAD_BYTES: usize = 256 << 20;

/// What the inputs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
                _ => Err(format!("`{text}`: expected `text`, `original` or `json.KEY`")),
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
        if trimmed.is_empty() { Err("empty_caption") } else { Ok(trimmed.to_owned()) }
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
    /// An example.
    Example(Example),
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
            Format::Shards => list_shards(&mut stores, patterns).await?.into_iter().map(Input::Tar).collect(),
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
        let budget = ByteBudget::new(READ_AHEAD_BYTES);
        Reading { inputs: self, order: order.into(), ahead: VecDeque::new(), budget }
    }

    async fn read_one(&self, number: usize, budget: ByteBudget, to: mpsc::Sender<Item>) {
        let failed = match &self.list[number] {
            Input::Tar(shard) => self.read_tar(number, shard, &budget, &to).await,
            Input::Part(part) => parquet::read(number, part, &self.caption, &to).await,
        };
        if let Err(what) = failed {
            // Nobody listens any more: nothing to tell.
            let _ = to.send(Item::Failed(what)).await;
        }
    }

    async fn read_tar(
        &self,
        number: usize,
        shard: &ShardRef,
        budget: &ByteBudget,
        to: &mpsc::Sender<Item>,
    ) -> Result<(), String> {
        let (send, mut found) = mpsc::channel(QUEUE);
        let bytes = AtomicU64::new(0);
        let reading = async {
            let end = read_shard(number, shard, TarLimits::default(), budget, &bytes, &send).await;
            drop(send);
            end
        };
        let passing = async {
            while let Some(found) = found.recv().await {
                let item = match found {
                    Found::Sample(sample) => self.example(sample),
                    Found::Reject { index, reject, .. } => {
                        Item::Bad { index, reason: reject.reason.as_str().to_owned() }
                    }
                };
                if to.send(item).await.is_err() {
                    break;
                }
            }
        };
        let (end, ()) = tokio::join!(reading, passing);
        match end.map_err(|e| e.to_string())? {
            Some(end) => match end.damage {
                Some(damage) => {
                    Err(format!("shard {}: byte {}: {}", shard.url, damage.offset, damage.detail))
                }
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn example(&self, sample: Sample) -> Item {
        let Sample { shard, index, key, image, suffix, org_caption, meta, .. } = sample;
        let text = org_caption.as_deref();
        match self.caption.find(text, text, meta.as_deref()) {
            Ok(caption) => Item::Example(Example { shard, index, key, image, suffix, caption }),
            Err(reason) => Item::Bad { index, reason: reason.to_owned() },
        }
    }
}

/// Inputs being read.
pub(super) struct Reading {
    inputs: Arc<Inputs>,
    order: VecDeque<usize>,
    ahead: VecDeque<mpsc::Receiver<Item>>,
    budget: ByteBudget,
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
            let (inputs, budget) = (Arc::clone(&self.inputs), self.budget.clone());
            tokio::spawn(async move { inputs.read_one(number, budget, to).await });
            self.ahead.push_back(items);
        }
    }
}
