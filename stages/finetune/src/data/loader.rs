//! Batches of windows, on a thread of its own: images are decoded (rayon) and captions tokenised while the model computes.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use rayon::prelude::*;
use recaption_image::{DecodeOptions, Preprocess, prepare_region, reason_of};
use recaption_onnx::tokenizer::Tokenizer;

use super::{
    counts::DataCounts,
    crop::CropSettings,
    error::DataError,
    example::{Example, Position},
    shards::Inputs,
    window::{WindowOrder, Windows},
};
use crate::{batch::Batch, random::Random};

/// Number of batches that wait for the model.
const QUEUE: usize = 2;
/// Stream of random numbers for crops.
const CROP_STREAM: u64 = 3;

/// Settings of batches.
#[derive(Clone, Debug)]
pub struct LoaderSettings {
    /// Number of samples per batch.
    pub batch_size: usize,
    /// Largest number of examples per shuffled window.
    pub window: usize,
    /// Size of groups of similar texts, which divides the batch; 1 groups nothing.
    pub group_similar: usize,
    /// Seed of all orders and crops.
    pub seed: u64,
    /// The model's preprocessing.
    pub preprocess: Preprocess,
    /// Limits of decoding.
    pub decode: DecodeOptions,
    /// Random crops; `None` takes whole images.
    pub crop: Option<CropSettings>,
    /// Bytes of decoded images that are cached for the next epochs; ignored with crops.
    pub cache_bytes: usize,
}

/// A batch, with the position after it.
#[derive(Clone, Debug)]
pub struct LoadedBatch {
    /// The batch.
    pub batch: Batch,
    /// Position after the batch.
    pub position: Position,
    /// Counts of the samples since the last batch.
    pub counts: DataCounts,
}

/// An endless stream of batches.
#[derive(Debug)]
pub struct Loader {
    batches: mpsc::Receiver<Result<LoadedBatch, DataError>>,
    _thread: JoinHandle<()>,
}

impl Loader {
    /// Starts loading at `position`.
    ///
    /// # Errors
    /// Fails when no thread can be started.
    pub fn start(
        inputs: Arc<Inputs>,
        tokenizer: Arc<Tokenizer>,
        settings: LoaderSettings,
        position: Position,
    ) -> std::io::Result<Self> {
        let (to, batches) = mpsc::sync_channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let thread = std::thread::Builder::new().name("loader".into()).spawn(move || {
            let builder = BatchBuilder::new(Arc::clone(&inputs), tokenizer, settings);
            if let Err(error) = builder.run(&runtime, inputs, position, &to) {
                // The receiver may be gone.
                let _ = to.send(Err(error));
            }
        })?;
        Ok(Self { batches, _thread: thread })
    }

    /// Returns the next batch; blocks until it is ready.
    ///
    /// # Errors
    /// Fails when an epoch had no usable sample.
    pub fn next(&self) -> Result<LoadedBatch, DataError> {
        self.batches.recv().map_err(|_| DataError::Broken("without an error".into()))?
    }
}

/// Loads the first `limit` examples of the inputs, in order and without crops: for validation.
///
/// # Errors
/// Fails when there is no usable sample.
pub async fn load_all(
    inputs: Arc<Inputs>,
    tokenizer: Arc<Tokenizer>,
    settings: LoaderSettings,
    limit: usize,
) -> Result<(Vec<Batch>, DataCounts), DataError> {
    let size = settings.batch_size;
    let mut windows = Windows::new(
        Arc::clone(&inputs),
        0,
        limit.min(settings.window),
        WindowOrder::Stored,
        Position::default(),
    );
    let settings = LoaderSettings { crop: None, cache_bytes: 0, ..settings };
    let mut builder = BatchBuilder::new(inputs, tokenizer, settings);
    let (mut batches, mut left) = (Vec::new(), limit);
    loop {
        let window = windows.next().await;
        builder.epoch.add(&window.counts);
        builder.failure = builder.failure.take().or(window.failure);
        let examples = &window.examples[..window.examples.len().min(left)];
        left -= examples.len();
        builder.consume(examples, window.start, window.start, |loaded| {
            batches.push(loaded.batch);
            true
        });
        if window.ends_epoch || left == 0 {
            break;
        }
    }
    batches.extend((!builder.pending.is_empty()).then(|| std::mem::take(&mut builder.pending)));
    debug_assert!(batches.iter().all(|b| b.len() <= size));
    if batches.is_empty() { Err(builder.nothing()) } else { Ok((batches, builder.epoch)) }
}

/// Builds batches of examples.
struct BatchBuilder {
    inputs: Arc<Inputs>,
    tokenizer: Arc<Tokenizer>,
    settings: LoaderSettings,
    pending: Batch,
    cache: HashMap<(usize, u64), Arc<[u8]>>,
    cached: usize,
    /// Counts since the last batch.
    counts: DataCounts,
    /// Counts of the epoch.
    epoch: DataCounts,
    /// Error of the first shard that failed.
    failure: Option<String>,
}

impl BatchBuilder {
    fn new(inputs: Arc<Inputs>, tokenizer: Arc<Tokenizer>, settings: LoaderSettings) -> Self {
        Self {
            inputs,
            tokenizer,
            settings,
            pending: Batch::default(),
            cache: HashMap::new(),
            cached: 0,
            counts: DataCounts::default(),
            epoch: DataCounts::default(),
            failure: None,
        }
    }

    /// Sends batches until the receiver is gone. The next window is filled while one is consumed.
    fn run(
        mut self,
        runtime: &tokio::runtime::Runtime,
        inputs: Arc<Inputs>,
        position: Position,
        to: &mpsc::SyncSender<Result<LoadedBatch, DataError>>,
    ) -> Result<(), DataError> {
        let begin = Position { taken: 0, ..position };
        let (seed, size) = (self.settings.seed, self.settings.window);
        let order = match self.settings.group_similar {
            0 | 1 => WindowOrder::Shuffled,
            size => WindowOrder::Similar(size),
        };
        let fill = |mut windows: Windows| async move {
            let window = windows.next().await;
            (window, windows)
        };
        let mut filling = runtime.spawn(fill(Windows::new(inputs, seed, size, order, begin)));
        let mut skip = position.taken;
        // Only an epoch that is read from its first sample can be known to have no usable one.
        let mut whole = position.shard == 0 && position.sample == 0 && position.taken == 0;
        loop {
            let (window, windows) =
                runtime.block_on(filling).map_err(|e| DataError::Broken(e.to_string()))?;
            let next = windows.position();
            filling = runtime.spawn(fill(windows));
            // When the checkpoint lies inside this window, samples met while it was filled were counted before.
            if skip == 0 {
                self.epoch.add(&window.counts);
                self.counts.add(&window.counts);
            }
            self.failure = self.failure.take().or(window.failure);
            let start = Position { taken: skip, ..window.start };
            if !self.consume(&window.examples, start, next, |loaded| to.send(Ok(loaded)).is_ok()) {
                return Ok(());
            }
            skip = 0;
            if window.ends_epoch {
                if whole && self.epoch.used == 0 {
                    return Err(self.nothing());
                }
                (whole, self.epoch) = (true, DataCounts::default());
            }
        }
    }

    /// Returns the error of an epoch without a usable sample.
    fn nothing(&self) -> DataError {
        DataError::Nothing {
            shards: self.inputs.len(),
            counts: self.epoch.to_string(),
            caption: self.inputs.caption(),
            failure: self
                .failure
                .as_ref()
                .map_or(String::new(), |what| format!("; the first failure: {what}")),
        }
    }

    /// Builds batches of a window's examples after the first `start.taken`; returns `false` when `send` does.
    fn consume(
        &mut self,
        examples: &[Example],
        start: Position,
        next: Position,
        mut send: impl FnMut(LoadedBatch) -> bool,
    ) -> bool {
        let mut taken = start.taken.min(examples.len());
        while taken < examples.len() {
            let wanted = self.settings.batch_size - self.pending.len();
            let some = &examples[taken..examples.len().min(taken + wanted)];
            self.add(some, start.epoch);
            taken += some.len();
            if self.pending.len() == self.settings.batch_size {
                let position = if taken == examples.len() { next } else { Position { taken, ..start } };
                let loaded = LoadedBatch {
                    batch: std::mem::take(&mut self.pending),
                    position,
                    counts: std::mem::take(&mut self.counts),
                };
                if !send(loaded) {
                    return false;
                }
            }
        }
        true
    }

    /// Decodes and tokenises examples, and adds those that can be used.
    fn add(&mut self, examples: &[Example], epoch: u64) {
        let decoded: Vec<Result<Arc<[u8]>, &'static str>> =
            examples.par_iter().map(|example| self.pixels(example, epoch)).collect();
        for (example, pixels) in examples.iter().zip(decoded) {
            let sample = pixels.and_then(|pixels| {
                let text = self.tokenizer.encode(&example.caption).map_err(|_| "untokenizable_caption")?;
                Ok((pixels, text))
            });
            let mut seen = DataCounts::default();
            match sample {
                Ok((pixels, text)) => {
                    seen.texts_cut = u64::from(text.truncated);
                    seen.used = 1;
                    self.pending.push(example.key.clone(), &pixels, text.ids);
                    self.cache_pixels(example, pixels);
                }
                Err(reason) => seen.add_bad(reason),
            }
            self.counts.add(&seen);
            self.epoch.add(&seen);
        }
    }

    /// Decodes an example, or finds it in the cache.
    fn pixels(&self, example: &Example, epoch: u64) -> Result<Arc<[u8]>, &'static str> {
        if let Some(kept) = self.cache.get(&(example.shard, example.index)) {
            return Ok(Arc::clone(kept));
        }
        let region = self.settings.crop.map(|crop| {
            let stream = [CROP_STREAM, epoch, example.shard as u64, example.index];
            crop.choose(&mut Random::new(self.settings.seed, &stream))
        });
        let (preprocess, options) = (&self.settings.preprocess, &self.settings.decode);
        prepare_region(&example.image, Some(&example.suffix), preprocess, region, options)
            .map(|prepared| prepared.pixels.into_vec().into())
            .map_err(|error| reason_of(&error).as_str())
    }

    /// Caches an example's pixels while there is room.
    fn cache_pixels(&mut self, example: &Example, pixels: Arc<[u8]>) {
        if self.settings.crop.is_none() && self.cached + pixels.len() <= self.settings.cache_bytes {
            self.cached += pixels.len();
            let key = (example.shard, example.index);
            if let Some(old) = self.cache.insert(key, pixels) {
                self.cached -= old.len();
            }
        }
    }
}
