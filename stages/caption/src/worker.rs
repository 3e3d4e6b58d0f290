//! The threads of a captioner, and what it does without them.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use recaption_onnx::{
    caption::{BatchEncoder, Generator, SlotDecoder},
    model::ModelFolder,
    runtime::SessionOptions,
    tokenizer::Tokenizer,
};

use super::{
    CaptionError, CaptionFailure, CaptionWorkerSettings, Emit, Stop,
    encode::{EncodeStage, EncodedBatch, take_batch},
    generate::{Captioned, GenerateStage, Neighbours, Next},
    queue::ImageQueue,
    scoring::ScoreStage,
};
use crate::score::Scorer;
use recaption_messages::SampleResult;

/// Captioned images that are scored together on the CPU.
const CPU_SCORE_GROUP: usize = 16;
/// The same on a device, at most: what has come meanwhile.
const DEVICE_SCORE_GROUP: usize = 128;

/// A captioner's models, loaded.
pub struct CaptionWorker {
    encoder: BatchEncoder,
    generator: Generator,
    scorer: Scorer,
    tokenizer: Tokenizer,
    settings: CaptionWorkerSettings,
    /// Images that are worth encoding together, at most.
    encode_batch: usize,
    /// Whether the stages have threads of their own.
    overlaps: bool,
}

impl CaptionWorker {
    /// Loads a captioner and the model that scores its captions; without one it scores them itself.
    ///
    /// # Errors
    /// When a model cannot be loaded or the settings do not fit it.
    pub fn load(
        model: &ModelFolder,
        scorer: Option<&ModelFolder>,
        options: &SessionOptions,
        settings: CaptionWorkerSettings,
    ) -> Result<Self, CaptionError> {
        let mut scorer = match scorer {
            Some(scorer) => Scorer::separate(scorer, options)?,
            None => Scorer::of_captioner(model, options)?,
        };
        scorer.keep_features(settings.keep_features);
        Ok(Self {
            tokenizer: Tokenizer::load(model)?,
            generator: Generator::load(model, options, settings.caption.clone())?,
            encoder: BatchEncoder::load(model, options)?,
            scorer,
            settings,
            encode_batch: options.execution.encode_batch(),
            overlaps: options.is_on_device(),
        })
    }

    /// Replaces the decoder by what `wrap` makes of it: tests inject failures with it.
    #[must_use]
    pub fn map_decoder(mut self, wrap: impl FnOnce(Box<dyn SlotDecoder>) -> Box<dyn SlotDecoder>) -> Self {
        self.generator = self.generator.map_decoder(wrap);
        self
    }

    /// Works until no more images come and everything in flight is done. `emit` may block; `false` from it ends the captioner.
    /// It is called from several threads where the captioner has several.
    ///
    /// # Errors
    /// When a model fails on more than single images.
    pub fn run(
        self,
        input: &ImageQueue,
        emit: impl Fn(SampleResult) -> bool + Sync,
    ) -> Result<(), CaptionFailure> {
        let emit = |finished: SampleResult| {
            input.finished();
            if emit(finished) { Ok(()) } else { Err(Stop::Closed(Vec::new())) }
        };
        let result = if self.overlaps { self.overlapped(input, &emit) } else { self.in_turn(input, &emit) };
        match result {
            Ok(()) | Err(Stop::Closed(_)) => Ok(()),
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }

    /// Everything on the calling thread.
    fn in_turn(mut self, input: &ImageQueue, emit: Emit<'_>) -> Result<(), Stop> {
        let encoder = Mutex::new(self.encoder);
        // A quarter of the slots at a time, so that they refill before many stand empty.
        let batch = (self.generator.max_slots() / 4).clamp(1, self.encode_batch);
        let score =
            ScoreStage::new((&mut self.scorer, &self.tokenizer), &self.settings, emit, CPU_SCORE_GROUP);
        let mut neighbours = InTurn {
            input,
            encode: EncodeStage { encoder: &encoder, emit },
            encoded: VecDeque::new(),
            batch,
            score,
        };
        let encode = EncodeStage { encoder: &encoder, emit };
        GenerateStage::new(self.generator, encode, self.settings.seed).run(&mut neighbours).map_err(|stop| {
            let encoded = neighbours.encoded.into_iter().flat_map(|batch| batch.samples);
            stop.with(encoded).with(neighbours.score.into_samples())
        })
    }

    /// Encoding and scoring on threads of their own.
    fn overlapped(mut self, input: &ImageQueue, emit: Emit<'_>) -> Result<(), Stop> {
        let encoder = Mutex::new(self.encoder);
        let size = self.encode_batch.min(self.generator.max_slots());
        let (seed, settings) = (self.settings.seed, &self.settings);
        let ended = AtomicBool::new(false);
        // Nothing lies in this channel: a batch waits on one side, and the next is encoded on the other.
        let (to_generate, encoded) = bounded(0);
        let (to_score, captioned) = bounded(DEVICE_SCORE_GROUP);
        let score = ScoreStage::new((&mut self.scorer, &self.tokenizer), settings, emit, DEVICE_SCORE_GROUP);
        let results = std::thread::scope(|scope| {
            let encode = EncodeStage { encoder: &encoder, emit };
            let encoding = scope.spawn(|| encode_all(input, encode, size, to_generate, &ended));
            let scoring = scope.spawn(|| score_all(score, captioned, &ended));
            let mut neighbours = Overlapped { encoded, to_score, ended: &ended };
            let encode = EncodeStage { encoder: &encoder, emit };
            let generated = GenerateStage::new(self.generator, encode, seed).run(&mut neighbours);
            ended.store(true, SeqCst);
            drop(neighbours);
            [Ok(generated), scoring.join(), encoding.join()]
        });
        let mut all = Ok(());
        for result in results {
            let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all = match (all, result) {
                (all, Ok(())) => all,
                (Ok(()), stop) => stop,
                // An error says more than an end that it caused.
                (Err(Stop::Closed(samples)), Err(stop)) | (Err(stop), Err(Stop::Closed(samples))) => {
                    Err(stop.with(samples))
                }
                (Err(stop), Err(Stop::Failed(failure))) => Err(stop.with(failure.unfinished)),
            };
        }
        all
    }
}

/// The neighbours of a generator on one thread.
struct InTurn<'a> {
    input: &'a ImageQueue,
    encode: EncodeStage<'a>,
    encoded: VecDeque<EncodedBatch>,
    /// Images per call of the encoder.
    batch: usize,
    score: ScoreStage<'a>,
}

impl Neighbours for InTurn<'_> {
    /// Encodes what the queue holds right now, once enough slots are free for a full batch.
    fn next(&mut self, room: usize, wait: bool) -> Next {
        if let Some(batch) = self.encoded.pop_front() {
            return Next::Batch(batch);
        }
        let size = self.batch.min(room.max(1));
        let mut images = Vec::new();
        if wait {
            match self.input.take(&AtomicBool::new(false)) {
                Some(first) => images.push(first),
                None => return Next::End,
            }
        } else if room < self.batch {
            return Next::Nothing;
        }
        while images.len() < size
            && let Some(sample) = self.input.try_take()
        {
            images.push(sample);
        }
        if images.is_empty() {
            return Next::Nothing;
        }
        match self.encode.encode(images) {
            Ok(batches) => self.encoded.extend(batches),
            Err(stop) => return Next::Failed(stop),
        }
        self.encoded.pop_front().map_or(Next::Nothing, Next::Batch)
    }

    fn hand_on(&mut self, captioned: Captioned) -> Result<(), Stop> {
        self.score.push(captioned)
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.score.flush()
    }
}

/// The neighbours of a generator on threads of their own.
struct Overlapped<'a> {
    encoded: Receiver<Result<EncodedBatch, Stop>>,
    to_score: Sender<Captioned>,
    /// Set when a neighbour failed.
    ended: &'a AtomicBool,
}

impl Neighbours for Overlapped<'_> {
    fn next(&mut self, _room: usize, wait: bool) -> Next {
        if self.ended.load(SeqCst) {
            return Next::Failed(Stop::Closed(Vec::new()));
        }
        let received = if wait {
            self.encoded.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            self.encoded.try_recv()
        };
        match received {
            Ok(Ok(batch)) => Next::Batch(batch),
            Ok(Err(stop)) => Next::Failed(stop),
            Err(TryRecvError::Empty) => Next::Nothing,
            Err(TryRecvError::Disconnected) => Next::End,
        }
    }

    fn hand_on(&mut self, captioned: Captioned) -> Result<(), Stop> {
        self.to_score.send(captioned).map_err(|unsent| Stop::Closed(vec![unsent.0.sample]))
    }

    fn flush(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}

/// Encodes until no more images come, or a neighbour ended.
fn encode_all(
    input: &ImageQueue,
    encode: EncodeStage<'_>,
    size: usize,
    to_generate: Sender<Result<EncodedBatch, Stop>>,
    ended: &AtomicBool,
) -> Result<(), Stop> {
    while let Some(images) = take_batch(input, size, ended) {
        let mut batches: VecDeque<Result<EncodedBatch, Stop>> = match encode.encode(images) {
            Ok(batches) => batches.into_iter().map(Ok).collect(),
            Err(stop) => VecDeque::from([Err(stop)]),
        };
        while let Some(batch) = batches.pop_front() {
            let Err(unsent) = to_generate.send(batch) else { continue };
            let unsent = std::iter::once(unsent.0).chain(batches);
            return Err(unsent.fold(Stop::Closed(Vec::new()), |stop, unsent| match unsent {
                Ok(batch) => stop.with(batch.samples),
                Err(Stop::Closed(samples)) => stop.with(samples),
                Err(Stop::Failed(failure)) => stop.with(failure.unfinished),
            }));
        }
    }
    Ok(())
}

/// Scores until the generator ends. After an error it takes what still comes, so that nothing is lost in the channel.
fn score_all(
    mut score: ScoreStage<'_>,
    captioned: Receiver<Captioned>,
    ended: &AtomicBool,
) -> Result<(), Stop> {
    let mut work = || {
        while let Ok(first) = captioned.recv() {
            score.push(first)?;
            for next in captioned.try_iter() {
                score.push(next)?;
            }
            score.flush()?;
        }
        Ok(())
    };
    work().map_err(|stop: Stop| {
        ended.store(true, SeqCst);
        let rest = captioned.iter().map(|captioned| captioned.sample);
        stop.with(rest).with(score.into_samples())
    })
}
