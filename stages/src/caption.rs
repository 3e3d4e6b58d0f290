//! `Image -> Encoded -> Candidates -> Scored`: one lane is one thread that owns the models' sessions.
//!
//! Takes prepared images from a bounded channel as slots become free, decodes with continuous batching, scores in small
//! groups, filters, and hands outcomes on. Nothing waits for a batch to fill: what is there is begun. A lane drops
//! nothing; an image on which the encoder fails alone is rejected as `model_error`.

use std::collections::HashMap;

use crossbeam_channel::{Receiver, TryRecvError};
use recaption_onnx::{
    caption::{CaptionSettings, Captioner, Generated},
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions},
    tokenizer::{Tokenizer, TokenizerError},
};
use recaption_schemas::{Candidate, Candidates, CaptionRow, EmbeddedImage, Reject, RejectReason};

use crate::{
    filter::{Filter, Outcome},
    prepare::PreparedSample,
    score::{ScoreError, ScoreJob, ScoredJob, Scorer},
};

/// Images encoded together, at most. The encoder gains nothing from more, and slots refill sooner with fewer.
const ENCODE_BATCH: usize = 8;
/// Finished captions that are scored together.
const SCORE_BATCH: usize = 16;

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
pub enum CaptionError {
    /// A model.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Scoring.
    #[error(transparent)]
    Score(#[from] ScoreError),
}

/// An outcome and where it belongs.
pub struct Finished {
    /// Number of the shard within the run.
    pub shard: usize,
    /// Position in the shard.
    pub index: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Texts cut for scoring.
    pub texts_cut: u64,
}

/// What a lane does with captions.
#[derive(Clone, Copy, Debug)]
pub struct LaneSettings {
    /// Decoding.
    pub caption: CaptionSettings,
    /// Filtering.
    pub filter: Filter,
    /// Whether rows carry the stored image.
    pub embed_images: bool,
}

/// A lane's models, loaded.
pub struct Lane {
    captioner: Captioner,
    scorer: Scorer,
    tokenizer: Tokenizer,
    settings: LaneSettings,
    next_ticket: u64,
    in_hand: HashMap<u64, PreparedSample>,
    to_score: Vec<ScoreJob<(PreparedSample, f32)>>,
}

impl Lane {
    /// Loads a captioner and lets it judge its own captions.
    ///
    /// # Errors
    /// When a model cannot be loaded or the settings do not fit it.
    pub fn load(
        model: &ModelFolder,
        options: &SessionOptions,
        settings: LaneSettings,
    ) -> Result<Self, CaptionError> {
        Ok(Self {
            tokenizer: Tokenizer::load(model)?,
            captioner: Captioner::load(model, options, settings.caption)?,
            scorer: Scorer::of_captioner(model, options)?,
            settings,
            next_ticket: 0,
            in_hand: HashMap::new(),
            to_score: Vec::new(),
        })
    }

    /// Works until the channel is closed and everything in hand is done. `emit` may block; `false` from it ends the lane.
    ///
    /// # Errors
    /// When a model fails on more than a single image.
    pub fn run(
        mut self,
        input: &Receiver<PreparedSample>,
        mut emit: impl FnMut(Finished) -> bool,
    ) -> Result<(), CaptionError> {
        loop {
            let batch = self.take(input);
            if batch.is_empty() && self.captioner.active() == 0 {
                // Nothing to do but wait: first hand on what is half done.
                if !self.flush(&mut emit)? {
                    return Ok(());
                }
                match input.recv() {
                    Ok(first) => {
                        let mut batch = vec![first];
                        batch.extend(input.try_iter().take(self.batch_size() - 1));
                        if !self.admit(batch, &mut emit)? {
                            return Ok(());
                        }
                    }
                    Err(_) => return Ok(()),
                }
            } else if !batch.is_empty() && !self.admit(batch, &mut emit)? {
                return Ok(());
            }
            for generated in self.captioner.step()? {
                self.decoded(generated)?;
            }
            if self.to_score.len() >= SCORE_BATCH && !self.flush(&mut emit)? {
                return Ok(());
            }
        }
    }

    /// Images per encoder call: a quarter of the slots, so that they refill before many stand empty.
    fn batch_size(&self) -> usize {
        (self.settings.caption.max_slots / 4).clamp(1, ENCODE_BATCH)
    }

    /// What the channel has right now, once enough slots are free to encode a full batch.
    fn take(&self, input: &Receiver<PreparedSample>) -> Vec<PreparedSample> {
        let size = self.batch_size();
        let mut batch = Vec::new();
        if self.captioner.room() < size {
            return batch;
        }
        while batch.len() < size {
            match input.try_recv() {
                Ok(sample) => batch.push(sample),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        batch
    }

    fn admit(
        &mut self,
        batch: Vec<PreparedSample>,
        emit: &mut impl FnMut(Finished) -> bool,
    ) -> Result<bool, CaptionError> {
        let first = self.next_ticket;
        self.next_ticket += batch.len() as u64;
        let tickets: Vec<u64> = (first..self.next_ticket).collect();
        let pixels: Vec<u8> = batch.iter().flat_map(|s| s.pixels.iter().copied()).collect();
        if let Err(error) = self.captioner.admit(&tickets, &pixels) {
            if batch.len() == 1 {
                return Ok(batch.into_iter().all(|sample| emit(model_error(sample, &error))));
            }
            tracing::warn!(images = batch.len(), %error, "the image encoder failed on a batch; trying one by one");
            for sample in batch {
                if !self.admit(vec![sample], emit)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        self.in_hand.extend(tickets.into_iter().zip(batch));
        Ok(true)
    }

    fn decoded(&mut self, generated: Generated) -> Result<(), CaptionError> {
        let text = self.tokenizer.decode(&generated.ids)?;
        if let Some(sample) = self.in_hand.remove(&generated.ticket) {
            let mut texts = vec![text];
            texts.extend(sample.org_caption.clone());
            self.to_score.push(ScoreJob {
                key: sample.key.clone(),
                image_features: generated.image_features,
                texts,
                payload: (sample, generated.logprob),
            });
        }
        Ok(())
    }

    fn flush(&mut self, emit: &mut impl FnMut(Finished) -> bool) -> Result<bool, CaptionError> {
        let jobs = std::mem::take(&mut self.to_score);
        for job in self.scorer.score(jobs)? {
            if !finish(job, &self.settings).is_none_or(&mut *emit) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn model_error(sample: PreparedSample, error: &RuntimeError) -> Finished {
    let reject = Reject {
        key: sample.key,
        reason: RejectReason::ModelError,
        detail: error.to_string(),
        caption: None,
        similarity: None,
        org_caption: sample.org_caption,
    };
    Finished {
        shard: sample.shard,
        index: sample.index,
        outcome: Outcome::Reject(Box::new(reject)),
        texts_cut: 0,
    }
}

/// The generated texts come first, the original one, if there is one, last.
fn finish(job: ScoredJob<(PreparedSample, f32)>, settings: &LaneSettings) -> Option<Finished> {
    let (sample, logprob) = job.payload;
    let mut texts = job.texts;
    let original = if sample.org_caption.is_some() { texts.pop() } else { None };
    let candidates =
        texts.into_iter().map(|(text, similarity)| Candidate { text, similarity, logprob }).collect();
    let (shard, index) = (sample.shard, sample.index);
    let image = settings.embed_images.then(|| EmbeddedImage {
        bytes: sample.stored.to_vec(),
        path: format!("{}.{}", sample.key, sample.suffix),
    });
    let row = CaptionRow {
        key: sample.key,
        candidates: Candidates::new(candidates)?,
        org_caption: sample.org_caption,
        org_similarity: original.map(|(_, similarity)| similarity),
        width: sample.width,
        height: sample.height,
        sha256: sample.sha256,
        url: sample.url,
        meta: sample.meta,
        image,
    };
    Some(Finished { shard, index, outcome: settings.filter.apply(row), texts_cut: job.cut })
}
