//! Windows -> batches, on a thread of its own: decoding (rayon) and tokenizing happen while the model works.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use rayon::prelude::*;
use recaption_onnx::tokenizer::Tokenizer;
use recaption_stages::{
    decode::{DecodeOptions, Preprocess, prepare_region},
    prepare::reason_of,
};

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
            let caption = inputs.caption();
            let shards = inputs.len();
            let mut windows =
                Windows::new(inputs, settings.seed, settings.window, true, Position { taken: 0, ..position });
            let mut making = Making::new(tokenizer, settings);
            let mut skip = position.taken;
            let mut epoch = DataCounts::default();
            loop {
                let window = runtime.block_on(windows.next());
                let next = windows.position();
                epoch.add(&window.counts);
                making.counts.add(&window.counts);
                let before = making.used;
                let start = Position { taken: skip, ..window.start };
                match making.consume(&window.examples, start, next, |loaded| to.send(Ok(loaded)).is_ok()) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => return drop(to.send(Err(error))),
                }
                epoch.add(&std::mem::take(&mut making.fresh));
                epoch.used += making.used - before;
                // A resumed run saw only a part of its first epoch.
                if window.ends_epoch && epoch.used == 0 && skip == 0 && window.start.shard == 0 {
                    let counts = epoch.to_string();
                    return drop(to.send(Err(DataError::Nothing { shards, counts, caption })));
                }
                if window.ends_epoch {
                    epoch = DataCounts::default();
                }
                skip = 0;
            }
        })?;
        Ok(Self { batches, _thread: thread })
    }

    /// The next batch.
    ///
    /// # Errors
    /// When an epoch had nothing to use, or the tokenizer fails.
    pub fn next(&self) -> Result<Loaded, DataError> {
        self.batches.recv().map_err(|_| DataError::Broken)?
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
    let (caption, shards) = (inputs.caption(), inputs.len());
    let size = settings.batch_size;
    let mut windows = Windows::new(inputs, 0, limit.min(settings.window), false, Position::default());
    let mut making = Making::new(tokenizer, LoaderSettings { crop: None, cache_bytes: 0, ..settings });
    let (mut batches, mut counts, mut left) = (Vec::new(), DataCounts::default(), limit);
    loop {
        let window = windows.next().await;
        counts.add(&window.counts);
        let examples = &window.examples[..window.examples.len().min(left)];
        left -= examples.len();
        making.consume(examples, window.start, window.start, |loaded| {
            batches.push(loaded.batch);
            true
        })?;
        if window.ends_epoch || left == 0 {
            break;
        }
    }
    batches.extend((!making.pending.is_empty()).then_some(making.pending));
    counts.add(&making.fresh);
    counts.used = making.used;
    debug_assert!(batches.iter().all(|b| b.len() <= size));
    if batches.is_empty() {
        return Err(DataError::Nothing { shards, counts: counts.to_string(), caption });
    }
    Ok((batches, counts))
}

/// A batch in the making.
struct Making {
    tokenizer: Arc<Tokenizer>,
    settings: LoaderSettings,
    pending: Batch,
    cache: HashMap<(usize, u64), Arc<[u8]>>,
    cached: usize,
    /// Counts since the last batch.
    counts: DataCounts,
    /// Bad samples since they were last taken.
    fresh: DataCounts,
    used: u64,
}

impl Making {
    fn new(tokenizer: Arc<Tokenizer>, settings: LoaderSettings) -> Self {
        Self {
            tokenizer,
            settings,
            pending: Batch::default(),
            cache: HashMap::new(),
            cached: 0,
            counts: DataCounts::default(),
            fresh: DataCounts::default(),
            used: 0,
        }
    }

    /// Makes batches of a window's examples behind the first `start.taken`; false when nobody takes them any more.
    fn consume(
        &mut self,
        examples: &[Example],
        start: Position,
        next: Position,
        mut give: impl FnMut(Loaded) -> bool,
    ) -> Result<bool, DataError> {
        let mut taken = start.taken.min(examples.len());
        while taken < examples.len() {
            let wanted = self.settings.batch_size - self.pending.len();
            let some = &examples[taken..examples.len().min(taken + wanted)];
            self.add(some, start.epoch)?;
            taken += some.len();
            if self.pending.len() == self.settings.batch_size {
                let position = if taken == examples.len() { next } else { Position { taken, ..start } };
                let loaded = Loaded {
                    batch: std::mem::take(&mut self.pending),
                    position,
                    counts: std::mem::take(&mut self.counts),
                };
                if !give(loaded) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Decodes examples and adds the good ones.
    fn add(&mut self, examples: &[Example], epoch: u64) -> Result<(), DataError> {
        let decoded: Vec<Result<Arc<[u8]>, &'static str>> =
            examples.par_iter().map(|example| self.pixels(example, epoch)).collect();
        for (example, pixels) in examples.iter().zip(decoded) {
            match pixels {
                Ok(pixels) => {
                    let text = self.tokenizer.encode(&example.caption)?;
                    self.counts.texts_cut += u64::from(text.cut);
                    self.counts.used += 1;
                    self.used += 1;
                    self.pending.push(example.key.clone(), &pixels, text.ids);
                    self.keep(example, pixels);
                }
                Err(reason) => {
                    self.counts.add_bad(reason);
                    self.fresh.add_bad(reason);
                }
            }
        }
        Ok(())
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
            if self.cache.insert(place, Arc::clone(&pixels)).is_some() {
                self.cached -= pixels.len();
            }
        }
    }
}
