//! Windows -> batches, on a thread of its own: decoding (rayon) and tokenizing happen while the model works.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use rayon::prelude::*;
use recaption_image::{DecodeOptions, Preprocess, prepare_region, reason_of};
use recaption_onnx::tokenizer::Tokenizer;

use super::{CropSettings, DataCounts, DataError, Example, Inputs, Position, window::Windows};
use crate::{batch::Batch, random::Random};

/// Batches that wait for the model.
const QUEUE: usize = 2;
/// Stream of random numbers for crops.
const CROPS: u64 = 3;

/// How batches are made.
#[derive(Clone)]
pub struct LoaderSettings {
    /// Samples per batch.
    pub batch_size: usize,
    /// Examples per window.
    pub window: usize,
    /// Seed of all orders and crops.
    pub seed: u64,
    /// Size and resizing.
    pub preprocess: Preprocess,
    /// What is refused.
    pub decode: DecodeOptions,
    /// Augmentation, or the whole image.
    pub crop: Option<CropSettings>,
    /// Bytes of decoded images that are kept for the next epoch. Not with crops.
    pub cache_bytes: usize,
}

/// A batch, and where it leaves the data.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The batch.
    pub batch: Batch,
    /// Place behind it.
    pub position: Position,
    /// Samples met on the way to it.
    pub counts: DataCounts,
}

/// Batches without end.
pub struct Loader {
    batches: mpsc::Receiver<Result<Loaded, DataError>>,
    _thread: JoinHandle<()>,
}

impl Loader {
    /// Starts the thread, at `position`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        inputs: Arc<Inputs>,
        tokenizer: Arc<Tokenizer>,
        settings: LoaderSettings,
        position: Position,
    ) -> std::io::Result<Self> {
        let (to, batches) = mpsc::sync_channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let thread = std::thread::Builder::new().name("loader".into()).spawn(move || {
            let making = Making::new(Arc::clone(&inputs), tokenizer, settings);
            if let Err(error) = making.run(&runtime, inputs, position, &to) {
                // It ends the batches; nobody may listen any more.
                let _ = to.send(Err(error));
            }
        })?;
        Ok(Self { batches, _thread: thread })
    }

    /// The next batch.
    ///
    /// # Errors
    /// When an epoch had nothing to use.
    pub fn next(&self) -> Result<Loaded, DataError> {
        self.batches.recv().map_err(|_| DataError::Broken("it said nothing".into()))?
    }
}

/// All examples of the inputs as they lie, at most `limit`, in batches: for validation.
///
/// # Errors
/// When nothing can be used.
pub async fn load_all(
    inputs: Arc<Inputs>,
    tokenizer: Arc<Tokenizer>,
    settings: LoaderSettings,
    limit: usize,
) -> Result<(Vec<Batch>, DataCounts), DataError> {
    let size = settings.batch_size;
    let mut windows =
        Windows::new(Arc::clone(&inputs), 0, limit.min(settings.window), false, Position::default());
    let settings = LoaderSettings { crop: None, cache_bytes: 0, ..settings };
    let mut making = Making::new(inputs, tokenizer, settings);
    let (mut batches, mut left) = (Vec::new(), limit);
    loop {
        let window = windows.next().await;
        making.epoch.add(&window.counts);
        making.failure = making.failure.take().or(window.failure);
        let examples = &window.examples[..window.examples.len().min(left)];
        left -= examples.len();
        making.consume(examples, window.start, window.start, |loaded| {
            batches.push(loaded.batch);
            true
        });
        if window.ends_epoch || left == 0 {
            break;
        }
    }
    batches.extend((!making.pending.is_empty()).then(|| std::mem::take(&mut making.pending)));
    debug_assert!(batches.iter().all(|b| b.len() <= size));
    if batches.is_empty() { Err(making.nothing()) } else { Ok((batches, making.epoch)) }
}

/// A batch in the making.
struct Making {
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
    /// What the first shard that failed said.
    failure: Option<String>,
}

impl Making {
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

    /// Windows to batches until nobody takes them. The next window is filled while one is used.
    fn run(
        mut self,
        runtime: &tokio::runtime::Runtime,
        inputs: Arc<Inputs>,
        position: Position,
        to: &mpsc::SyncSender<Result<Loaded, DataError>>,
    ) -> Result<(), DataError> {
        let begin = Position { taken: 0, ..position };
        let (seed, size) = (self.settings.seed, self.settings.window);
        let fill = |mut windows: Windows| async move {
            let window = windows.next().await;
            (window, windows)
        };
        let mut filling = runtime.spawn(fill(Windows::new(inputs, seed, size, true, begin)));
        let mut skip = position.taken;
        // Only an epoch that is seen from its first sample can be found to hold nothing.
        let mut whole = position.shard == 0 && position.sample == 0 && position.taken == 0;
        loop {
            let (window, windows) =
                runtime.block_on(filling).map_err(|e| DataError::Broken(e.to_string()))?;
            let next = windows.position();
            filling = runtime.spawn(fill(windows));
            // What was met while this window was filled was counted before the checkpoint, if that lies inside it.
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

    /// Why there are no batches.
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

    /// Makes batches of a window's examples behind the first `start.taken`; false when nobody takes them any more.
    fn consume(
        &mut self,
        examples: &[Example],
        start: Position,
        next: Position,
        mut give: impl FnMut(Loaded) -> bool,
    ) -> bool {
        let mut taken = start.taken.min(examples.len());
        while taken < examples.len() {
            let wanted = self.settings.batch_size - self.pending.len();
            let some = &examples[taken..examples.len().min(taken + wanted)];
            self.add(some, start.epoch);
            taken += some.len();
            if self.pending.len() == self.settings.batch_size {
                let position = if taken == examples.len() { next } else { Position { taken, ..start } };
                let loaded = Loaded {
                    batch: std::mem::take(&mut self.pending),
                    position,
                    counts: std::mem::take(&mut self.counts),
                };
                if !give(loaded) {
                    return false;
                }
            }
        }
        true
    }

    /// Decodes examples and adds the good ones.
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
                    seen.texts_cut = u64::from(text.cut);
                    seen.used = 1;
                    self.pending.push(example.key.clone(), &pixels, text.ids);
                    self.keep(example, pixels);
                }
                Err(reason) => seen.add_bad(reason),
            }
            self.counts.add(&seen);
            self.epoch.add(&seen);
        }
    }

    fn pixels(&self, example: &Example, epoch: u64) -> Result<Arc<[u8]>, &'static str> {
        if let Some(kept) = self.cache.get(&(example.shard, example.index)) {
            return Ok(Arc::clone(kept));
        }
        let region = self.settings.crop.map(|crop| {
            let stream = [CROPS, epoch, example.shard as u64, example.index];
            crop.choose(&mut Random::new(self.settings.seed, &stream))
        });
        let (preprocess, options) = (&self.settings.preprocess, &self.settings.decode);
        prepare_region(&example.image, Some(&example.suffix), preprocess, region, options)
            .map(|prepared| prepared.pixels.into_vec().into())
            .map_err(|error| reason_of(&error).as_str())
    }

    fn keep(&mut self, example: &Example, pixels: Arc<[u8]>) {
        if self.settings.crop.is_none() && self.cached + pixels.len() <= self.settings.cache_bytes {
            self.cached += pixels.len();
            let place = (example.shard, example.index);
            if let Some(old) = self.cache.insert(place, pixels) {
                self.cached -= old.len();
            }
        }
    }
}
