//! The stages of a worker on three threads, as on a GPU: the encoder and the scorer prepare and finish images while the
//! generator keeps the device busy.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::models::Models;
use crate::{
    encode::{EncodeStage, EncodedBatch, take_batch},
    generate::{CaptionedImage, GenerateStage, NextBatch, StageLinks},
    interruption::{Emit, Interruption},
    queue::ImageQueue,
    scoring::ScoreStage,
};

/// Encoded batches that the channel holds: none. One batch waits on the encoder's side while the next is encoded, so that at
/// most two batches of encoder outputs take device memory.
const ENCODED_BATCHES: usize = 0;
/// Largest number of captioned images that wait for the scorer, and that are scored together.
pub(super) const SCORE_GROUP: usize = 128;

/// Runs a worker on the calling thread, which generates, and two more.
pub(super) fn run(mut models: Models, input: &ImageQueue, emit: Emit<'_>) -> Result<(), Interruption> {
    let (encoder, counters) = (Mutex::new(models.encoder), &*models.counters);
    let size = models.encode_batch.min(models.generator.max_slots());
    let (seed, settings) = (models.settings.seed, &models.settings);
    // Set when a stage ended early: the others end too.
    let stop = AtomicBool::new(false);
    let (to_generator, encoded) = bounded(ENCODED_BATCHES);
    let (to_scorer, captioned) = bounded(SCORE_GROUP);
    let score =
        ScoreStage::new((&mut models.scorer, &models.tokenizer, counters), settings, emit, SCORE_GROUP);
    let results = std::thread::scope(|scope| {
        let encode = EncodeStage { encoder: &encoder, counters, emit };
        let encoding = scope.spawn(|| encode_all(input, encode, size, to_generator, &stop));
        let scoring = scope.spawn(|| score_all(score, captioned, &stop));
        let mut links = OtherThreads { encoded, to_scorer, stop: &stop };
        let encode = EncodeStage { encoder: &encoder, counters, emit };
        let generated = GenerateStage::new(models.generator, encode, seed).run(&mut links);
        stop.store(true, SeqCst);
        drop(links);
        [Ok(generated), scoring.join(), encoding.join()]
    });
    let mut interruption: Option<Interruption> = None;
    for result in results {
        if let Err(next) = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            interruption = Some(match interruption {
                Some(first) => first.merge(next),
                None => next,
            });
        }
    }
    interruption.map_or(Ok(()), Err)
}

/// The stages around the generator, on threads of their own.
struct OtherThreads<'a> {
    encoded: Receiver<Result<EncodedBatch, Interruption>>,
    to_scorer: Sender<CaptionedImage>,
    stop: &'a AtomicBool,
}

impl StageLinks for OtherThreads<'_> {
    fn next_batch(&mut self, _free_slots: usize, wait: bool) -> NextBatch {
        if self.stop.load(SeqCst) {
            return NextBatch::Interrupted(Interruption::Closed(Vec::new()));
        }
        let received = if wait {
            self.encoded.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            self.encoded.try_recv()
        };
        match received {
            Ok(Ok(batch)) => NextBatch::Ready(batch),
            Ok(Err(interruption)) => NextBatch::Interrupted(interruption),
            Err(TryRecvError::Empty) => NextBatch::Pending,
            Err(TryRecvError::Disconnected) => NextBatch::Finished,
        }
    }

    fn send(&mut self, captioned: CaptionedImage) -> Result<(), Interruption> {
        self.to_scorer.send(captioned).map_err(|unsent| Interruption::Closed(vec![unsent.0.sample]))
    }

    /// Does nothing: the scorer's thread finishes what it has whenever its channel is empty.
    fn flush(&mut self) -> Result<(), Interruption> {
        Ok(())
    }
}

/// Encodes until no more images come or another stage ended early.
///
/// A failure of the encoder goes to the generator, which may free memory and encode the images again.
fn encode_all(
    input: &ImageQueue,
    encode: EncodeStage<'_>,
    size: usize,
    to_generator: Sender<Result<EncodedBatch, Interruption>>,
    stop: &AtomicBool,
) -> Result<(), Interruption> {
    while let Some(images) = take_batch(input, size, stop) {
        let mut batches: VecDeque<Result<EncodedBatch, Interruption>> = match encode.encode(images) {
            Ok(batches) => batches.into_iter().map(Ok).collect(),
            Err(interruption) => VecDeque::from([Err(interruption)]),
        };
        while let Some(batch) = batches.pop_front() {
            let Err(unsent) = to_generator.send(batch) else { continue };
            let unsent = std::iter::once(unsent.0).chain(batches);
            let samples = unsent.flat_map(|unsent| match unsent {
                Ok(batch) => Vec::from(batch.samples),
                Err(interruption) => interruption.into_unfinished(),
            });
            return Err(Interruption::Closed(samples.collect()));
        }
    }
    Ok(())
}

/// Scores until the generator ends. After an error it still empties the channel, so that no image is lost in it.
fn score_all(
    mut score: ScoreStage<'_>,
    captioned: Receiver<CaptionedImage>,
    stop: &AtomicBool,
) -> Result<(), Interruption> {
    let mut score_received = || {
        while let Ok(first) = captioned.recv() {
            score.push(first)?;
            for next in captioned.try_iter() {
                score.push(next)?;
            }
            score.flush()?;
        }
        Ok(())
    };
    score_received().map_err(|interruption: Interruption| {
        stop.store(true, SeqCst);
        let rest = captioned.iter().map(|captioned| captioned.sample);
        interruption.with(rest).with(score.into_samples())
    })
}
