//! All stages of a worker on the calling thread, as on the CPU, where every core is busy already.

use std::{
    collections::VecDeque,
    sync::{Mutex, atomic::AtomicBool},
};

use super::models::Models;
use crate::{
    encode::{EncodeStage, EncodedBatch},
    generate::{CaptionedImage, GenerateStage, NextBatch, StageLinks},
    interruption::{Emit, Interruption},
    queue::ImageQueue,
    scoring::ScoreStage,
};

/// Number of captioned images that are scored together.
pub(super) const SCORE_GROUP: usize = 16;
/// Share of the slots that are filled together: they refill before many stand empty.
const SLOTS_PER_BATCH: usize = 4;

/// Runs a worker on the calling thread.
pub(super) fn run(mut models: Models, input: &ImageQueue, emit: Emit<'_>) -> Result<(), Interruption> {
    let (encoder, counters) = (Mutex::new(models.encoder), &*models.counters);
    let batch = (models.generator.max_slots() / SLOTS_PER_BATCH).clamp(1, models.encode_batch);
    let score = ScoreStage::new(
        (&mut models.scorer, &models.tokenizer, counters),
        &models.settings,
        emit,
        SCORE_GROUP,
    );
    let mut links = SameThread {
        input,
        encode: EncodeStage { encoder: &encoder, counters, emit },
        encoded: VecDeque::new(),
        batch,
        score,
    };
    let encode = EncodeStage { encoder: &encoder, counters, emit };
    GenerateStage::new(models.generator, encode, models.settings.seed).run(&mut links).map_err(
        |interruption| {
            let encoded = links.encoded.into_iter().flat_map(|batch| batch.samples);
            interruption.with(encoded).with(links.score.into_samples())
        },
    )
}

/// The stages around the generator, called in turn.
struct SameThread<'a> {
    input: &'a ImageQueue,
    encode: EncodeStage<'a>,
    encoded: VecDeque<EncodedBatch>,
    /// Largest number of images per call of the encoder.
    batch: usize,
    score: ScoreStage<'a>,
}

impl StageLinks for SameThread<'_> {
    /// Encodes what the queue holds right now, once enough slots are free for a full batch.
    fn next_batch(&mut self, free_slots: usize, wait: bool) -> NextBatch {
        if let Some(batch) = self.encoded.pop_front() {
            return NextBatch::Ready(batch);
        }
        let size = self.batch.min(free_slots.max(1));
        let mut images = Vec::new();
        if wait {
            match self.input.recv(&AtomicBool::new(false)) {
                Some(first) => images.push(first),
                None => return NextBatch::Finished,
            }
        } else if free_slots < self.batch {
            return NextBatch::Pending;
        }
        while images.len() < size
            && let Some(sample) = self.input.try_recv()
        {
            images.push(sample);
        }
        if images.is_empty() {
            return NextBatch::Pending;
        }
        match self.encode.encode(images) {
            Ok(batches) => self.encoded.extend(batches),
            Err(interruption) => return NextBatch::Interrupted(interruption),
        }
        self.encoded.pop_front().map_or(NextBatch::Pending, NextBatch::Ready)
    }

    fn send(&mut self, captioned: CaptionedImage) -> Result<(), Interruption> {
        self.score.push(captioned)
    }

    fn flush(&mut self) -> Result<(), Interruption> {
        self.score.flush()
    }
}
