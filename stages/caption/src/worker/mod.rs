//! [`CaptionWorker`]: one copy of the models, and the threads that run it.

mod models;
mod single_thread;
mod threaded;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use recaption_messages::{Closed, SampleResult};
use recaption_onnx::{
    caption::{BatchEncoder, Generator, SlotDecoder},
    model::ModelFolder,
    runtime::SessionOptions,
    tokenizer::Tokenizer,
};

use self::models::Models;
use crate::{
    counters::CaptionCounters,
    error::{CaptionError, CaptionFailure},
    interruption::Interruption,
    queue::ImageQueue,
    scorer::Scorer,
    settings::CaptionWorkerSettings,
};

/// Returns how many images a worker scores together, at most: on a device more than on the CPU. As long as they are scored, an image
/// that is matched holds its tokens, in host memory.
#[must_use]
pub fn score_group(is_on_device: bool) -> usize {
    if is_on_device { threaded::SCORE_GROUP } else { single_thread::SCORE_GROUP }
}

/// A captioner and its scorer, loaded.
///
/// A worker is loading, then running, then gone: [`CaptionWorker::run`] consumes it. While it runs, an image is queued
/// ([`ImageQueue`]), encoded, in a slot, captioned, and then a [`SampleResult`]; when memory runs out it may go back from slot
/// to queued, any number of times, each time with half the slots.
pub struct CaptionWorker {
    models: Models,
    /// Whether the stages have threads of their own.
    is_threaded: bool,
}

impl fmt::Debug for CaptionWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptionWorker")
            .field("settings", &self.models.settings)
            .field("scorer", &self.models.scorer)
            .field("encode_batch", &self.models.encode_batch)
            .field("is_threaded", &self.is_threaded)
            .finish_non_exhaustive()
    }
}

impl CaptionWorker {
    /// Loads a captioner and the model that scores its captions; without a scorer the captioner's own towers score them.
    ///
    /// # Errors
    /// Fails when a model cannot be loaded or the settings do not fit it.
    pub fn load(
        model: &ModelFolder,
        scorer: Option<&ModelFolder>,
        options: &SessionOptions,
        settings: CaptionWorkerSettings,
    ) -> Result<Self, CaptionError> {
        let mut scorer = match scorer {
            Some(scorer) if settings.itm_top_k > 0 && scorer.fusion().is_ok() => {
                Scorer::matching(scorer, options)?
            }
            Some(scorer) => Scorer::separate(scorer, options)?,
            None => Scorer::of_captioner(model, options)?,
        };
        scorer.keep_features(settings.keep_features);
        let models = Models {
            tokenizer: Tokenizer::load(model)?,
            generator: Generator::load(model, options, settings.caption.clone())?,
            encoder: BatchEncoder::load(model, options)?,
            scorer,
            settings,
            encode_batch: options.execution.encode_batch(model),
            counters: Arc::default(),
        };
        Ok(Self { models, is_threaded: options.is_on_device() })
    }

    /// Replaces the decoder by what `wrap` makes of it: tests inject failures with it.
    #[must_use]
    pub fn map_decoder(mut self, wrap: impl FnOnce(Box<dyn SlotDecoder>) -> Box<dyn SlotDecoder>) -> Self {
        self.models.generator = self.models.generator.map_decoder(wrap);
        self
    }

    /// Counts into `counters`, which several workers may share.
    #[must_use]
    pub fn with_counters(mut self, counters: Arc<CaptionCounters>) -> Self {
        counters.set_threaded(self.is_threaded);
        self.models.counters = counters;
        self
    }

    /// Captions images until no more come and none is in flight.
    ///
    /// `emit` takes each result and may block; when it fails, the run is over: the worker ends and drops what is in flight. It is
    /// called from several threads where the worker has several. Results come in any order.
    ///
    /// # Errors
    /// Fails when a model fails on more than single images; the unfinished samples come back.
    pub fn run(
        self,
        input: &ImageQueue,
        emit: impl Fn(SampleResult) -> Result<(), Closed> + Sync,
    ) -> Result<(), CaptionFailure> {
        let counters = Arc::clone(&self.models.counters);
        let emit = |result: SampleResult| {
            counters.images.fetch_add(1, Relaxed);
            input.mark_finished();
            emit(result).map_err(|Closed| Interruption::Closed(Vec::new()))
        };
        let result = if self.is_threaded {
            threaded::run(self.models, input, &emit)
        } else {
            single_thread::run(self.models, input, &emit)
        };
        match result {
            Ok(()) | Err(Interruption::Closed(_)) => Ok(()),
            Err(Interruption::Failed(failure)) => Err(failure),
        }
    }
}
