//! A shard of the source -> its rows, each with its image where images are needed.
//!
//! Images come from the rows, or from the input shard, which is read once from its start to its end. Rows are in the order of their
//! samples, so that reading meets them one after the other; samples without a row were rejected. An image that is gone or has
//! changed is reported with its row, and nothing else is lost.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use recaption_input::read::{ReadRequest, ReadSettings, read_shard};
use recaption_messages::{
    ByteBudget, ReadCounters, ReadItem, ReadSink, ReadStop, SampleOutcome, ShardContents,
};
use recaption_output::{CaptionRows, PartReader, ReadPartError, second_pass::SourceShard};
use recaption_schemas::sha256_hex;
use recaption_store::Location;
use tokio::{sync::mpsc, task::JoinHandle};

use super::inputs::InputShards;

/// Rows that are looked at together: a sample that is not that of the next row may be that of one of these.
const LOOKAHEAD_ROWS: usize = 1024;
/// Image bytes of one shard that wait to be written.
const BUFFER_BYTES: usize = 64 << 20;
/// Samples of one shard that wait to be written.
const SAMPLE_QUEUE: usize = 16;

/// A row of the source.
pub(super) struct SourceRow {
    /// Its batch.
    pub batch: Arc<SourceBatch>,
    /// Its number in the batch.
    pub row: usize,
    /// The stored image, where images are needed; or why it cannot be had.
    pub image: Result<Bytes, String>,
}

/// Rows that were decoded together.
pub(super) struct SourceBatch {
    /// All columns.
    pub batch: RecordBatch,
    /// The columns by name.
    pub rows: CaptionRows,
}

impl SourceRow {
    /// Returns the key.
    pub(super) fn key(&self) -> &str {
        self.batch.rows.key(self.row)
    }
}

/// A sample to be written.
pub(super) struct Sample {
    /// Its row.
    pub row: SourceRow,
    /// The stored image; empty where none are needed.
    pub image: Bytes,
    /// Name of its shard in the source.
    pub shard: String,
    /// Its key in the dataset.
    pub key: String,
    /// What a trainer reads as its caption.
    pub text: String,
}

/// Where images come from.
enum ImageSource {
    /// None are needed.
    NotNeeded,
    /// The rows carry them.
    Rows,
    /// The input shard. The second is the image of a sample that was met, with the number of rows before its own.
    Input(InputReader, Option<(usize, Result<Bytes, String>)>),
}

/// The rows of one shard.
pub(super) struct ShardRows {
    part: PartReader,
    part_location: Location,
    window: VecDeque<(Arc<SourceBatch>, usize)>,
    is_at_end: bool,
    images: ImageSource,
}

impl ShardRows {
    /// Opens a shard's rows. With `inputs`, rows get their images.
    ///
    /// # Errors
    /// When the captions part cannot be read.
    pub(super) async fn open(
        source: &Location,
        shard: &SourceShard,
        inputs: Option<&Arc<InputShards>>,
    ) -> Result<Self, ReadPartError> {
        let part_location = source.child(&shard.captions.path);
        let part = PartReader::open(part_location.clone(), &shard.captions, None).await?;
        let has_images = part.schema().index_of("image").is_ok();
        let images = match inputs {
            None => ImageSource::NotNeeded,
            Some(_) if has_images => ImageSource::Rows,
            Some(inputs) => ImageSource::Input(InputReader::start(inputs, &shard.url), None),
        };
        Ok(Self { part, part_location, window: VecDeque::new(), is_at_end: false, images })
    }

    /// Returns the schema of the rows.
    pub(super) fn schema(&self) -> SchemaRef {
        self.part.schema()
    }

    /// Returns the next row, `None` after the last.
    ///
    /// # Errors
    /// When the captions part cannot be read.
    pub(super) async fn next(&mut self) -> Result<Option<SourceRow>, ReadPartError> {
        self.fill().await?;
        if self.window.is_empty() {
            return Ok(None);
        }
        let image = match &mut self.images {
            ImageSource::NotNeeded => Ok(Bytes::new()),
            ImageSource::Rows => {
                let image = self.window.front().and_then(|(batch, row)| batch.rows.image(*row));
                image.ok_or_else(|| "the row does not carry its image".to_owned())
            }
            ImageSource::Input(reader, met) => {
                if met.is_none() {
                    *met = reader.next_of(&self.window).await;
                }
                match met.take() {
                    None => Err(reader.end_reason()),
                    Some((0, image)) => image,
                    Some((before, image)) => {
                        *met = Some((before - 1, image));
                        Err("its input shard has no such sample any more".to_owned())
                    }
                }
            }
        };
        let Some((batch, row)) = self.window.pop_front() else { return Ok(None) };
        Ok(Some(SourceRow { batch, row, image }))
    }

    /// Reads batches until enough rows can be looked at.
    async fn fill(&mut self) -> Result<(), ReadPartError> {
        let wanted = if matches!(self.images, ImageSource::Input(..)) { LOOKAHEAD_ROWS } else { 1 };
        while self.window.len() < wanted && !self.is_at_end {
            let Some(batch) = self.part.next().await? else {
                self.is_at_end = true;
                return Ok(());
            };
            let rows = CaptionRows::of(&batch).map_err(|e| ReadPartError::Invalid {
                part: self.part_location.url(),
                what: e.to_string(),
            })?;
            let count = rows.rows();
            let batch = Arc::new(SourceBatch { batch, rows });
            self.window.extend((0..count).map(|row| (Arc::clone(&batch), row)));
        }
        Ok(())
    }
}

/// Reads an input shard in a task of its own.
struct InputReader {
    items: mpsc::Receiver<ReadItem>,
    task: Option<JoinHandle<Result<ShardContents, String>>>,
    /// Samples that arrived before their turn, by position: images of URL lists come as they are fetched.
    waiting: BTreeMap<u64, (String, Result<Bytes, String>)>,
    /// Position of the next sample.
    next: u64,
    /// Why there are no further samples.
    end: Option<String>,
}

impl InputReader {
    fn start(inputs: &Arc<InputShards>, url: &str) -> Self {
        let (sender, items) = mpsc::channel(SAMPLE_QUEUE);
        let (inputs, url) = (Arc::clone(inputs), url.to_owned());
        let task = tokio::spawn(async move {
            let shard = inputs.find(&url).await?;
            let settings: &ReadSettings = inputs.settings();
            let (budget, counters) = (ByteBudget::new(BUFFER_BYTES), ReadCounters::default());
            let (sink, previous) = (ReadSink::Ordered(sender), None);
            let request = ReadRequest {
                number: 0,
                shard: &shard,
                settings,
                budget: &budget,
                counters: &counters,
                previous,
                sink: &sink,
            };
            read_shard(request).await.map_err(|stop| match stop {
                ReadStop::Closed(closed) => closed.to_string(),
                ReadStop::Failed(error) => error.what,
            })
        });
        Self { items, task: Some(task), waiting: BTreeMap::new(), next: 0, end: None }
    }

    /// Returns the next sample that one of `rows` is of: the number of rows before it, and the image or why it cannot be had.
    /// `None` at the end of the shard.
    async fn next_of(
        &mut self,
        rows: &VecDeque<(Arc<SourceBatch>, usize)>,
    ) -> Option<(usize, Result<Bytes, String>)> {
        while let Some((key, image)) = self.next_in_order().await {
            let Some(at) = rows.iter().position(|(batch, row)| batch.rows.key(*row) == key) else { continue };
            let image = image.and_then(|image| {
                let is_same = rows.get(at).is_some_and(|(b, row)| b.rows.sha256(*row) == sha256_hex(&image));
                is_same.then_some(image).ok_or_else(|| "the image changed: its SHA-256 differs".to_owned())
            });
            return Some((at, image));
        }
        None
    }

    /// Returns key and image of the next sample, in the order of the shard. `None` at its end.
    async fn next_in_order(&mut self) -> Option<(String, Result<Bytes, String>)> {
        while !self.waiting.contains_key(&self.next) {
            let Some(item) = self.items.recv().await else {
                self.finish().await;
                // After an error, positions are missing.
                return self.waiting.pop_first().map(|(_, sample)| sample);
            };
            let (index, sample) = match item {
                ReadItem::Sample(sample) => (sample.index, (sample.key, Ok(sample.image))),
                ReadItem::Ended(result) => match result.outcome {
                    SampleOutcome::Reject(reject) => {
                        let why = format!("{}: {}", reject.reason, reject.detail);
                        (result.index, (reject.key, Err(why)))
                    }
                    SampleOutcome::Caption(_) | SampleOutcome::Kept(_) => continue,
                },
            };
            self.waiting.insert(index, sample);
        }
        let sample = self.waiting.remove(&self.next);
        self.next += 1;
        sample
    }

    /// Remembers how the shard ended.
    async fn finish(&mut self) {
        if let Some(task) = self.task.take() {
            self.end = match task.await {
                Ok(Ok(contents)) => contents.damage.map(|damage| damage.detail),
                Ok(Err(why)) => Some(why),
                Err(error) => Some(format!("internal error: {error}")),
            };
        }
    }

    fn end_reason(&self) -> String {
        match &self.end {
            Some(why) => format!("its input shard cannot be read: {why}"),
            None => "its input shard has no such sample any more".to_owned(),
        }
    }
}
