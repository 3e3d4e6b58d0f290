//! `Image -> Encoded -> Candidates -> Scored`: one lane is one thread that owns the models' sessions.
//!
//! Takes prepared images from a bounded channel as slots become free, decodes with continuous batching, scores in small
//! groups, filters, and hands outcomes on. Nothing waits for a batch to fill: what is there is begun. A lane drops
//! nothing; a batch on which a model fails is tried one by one, an image on which it fails alone is rejected as
//! `model_error`, and when memory runs out the images in hand begin anew in half as many slots.

use std::collections::{HashMap, VecDeque};

use crossbeam_channel::{Receiver, TryRecvError};
use recaption_onnx::{
    caption::{Admission, CaptionSettings, Captioner, Generated, image_seed},
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions},
    tokenizer::{Tokenizer, TokenizerError},
};
use recaption_schemas::{Candidate, Candidates, CaptionRow, EmbeddedImage, Reject, RejectReason};

use crate::{
    filter::{Filter, Outcome},
    prepare::PreparedSample,
    score::{Features, ScoreError, ScoreImage, ScoreJob, ScoredJob, Scorer, Unscored},
};

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
    /// Of a sample that was captioned, where [`LaneSettings::keep_features`] asked for them.
    pub embeddings: Option<Embeddings>,
}

/// What the scorer saw of a sample, L2-normalised, `[E]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// The image.
    pub image: Vec<f32>,
    /// The original caption, if there was one.
    pub original: Option<Vec<f32>>,
}

/// What a lane does with captions.
#[derive(Clone, Debug)]
pub struct LaneSettings {
    /// Decoding.
    pub caption: CaptionSettings,
    /// Seed of sampling.
    pub seed: u64,
    /// Whether captions begin with the prompt that the model was given.
    pub keep_prompt: bool,
    /// Filtering.
    pub filter: Filter,
    /// Whether rows carry the stored image.
    pub embed_images: bool,
    /// Whether outcomes carry embeddings.
    pub keep_features: bool,
}

/// A lane's models, loaded.
pub struct Lane {
    captioner: Captioner,
    scorer: Scorer,
    tokenizer: Tokenizer,
    settings: LaneSettings,
    /// Images encoded together, at most.
    encode_batch: usize,
    next_ticket: u64,
    in_hand: HashMap<u64, PreparedSample>,
    /// Images that lost their slots.
    again: VecDeque<PreparedSample>,
    to_score: Vec<ScoreJob<(PreparedSample, Vec<f32>)>>,
}

impl Lane {
    /// Loads a captioner and the model that judges its captions; without one it judges them itself.
    ///
    /// # Errors
    /// When a model cannot be loaded or the settings do not fit it.
    pub fn load(
        model: &ModelFolder,
        scorer: Option<&ModelFolder>,
        options: &SessionOptions,
        settings: LaneSettings,
    ) -> Result<Self, CaptionError> {
        let mut judge = match scorer {
            Some(scorer) => Scorer::separate(scorer, options)?,
            None => Scorer::of_captioner(model, options)?,
        };
        judge.keep_features(settings.keep_features);
        Ok(Self {
            tokenizer: Tokenizer::load(model)?,
            captioner: Captioner::load(model, options, settings.caption.clone())?,
            scorer: judge,
            settings,
            encode_batch: options.execution.encode_batch(),
            next_ticket: 0,
            in_hand: HashMap::new(),
            again: VecDeque::new(),
            to_score: Vec::new(),
        })
    }

    /// Works until the channel is closed and everything in hand is done. `emit` may block; `false` from it ends the lane.
    ///
    /// # Errors
    /// When a model fails on more than single images.
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
            match self.captioner.step() {
                Ok(done) => done.into_iter().try_for_each(|generated| self.decoded(generated))?,
                Err(error) if error.is_out_of_memory() => self.make_do(error)?,
                Err(error) => {
                    if !self.one_by_one(&error, &mut emit)? {
                        return Ok(());
                    }
                }
            }
            if self.to_score.len() >= SCORE_BATCH && !self.flush(&mut emit)? {
                return Ok(());
            }
        }
    }

    /// Images per encoder call: a quarter of the slots, so that they refill before many stand empty.
    fn batch_size(&self) -> usize {
        (self.captioner.max_slots() / 4).clamp(1, self.encode_batch)
    }

    /// What the channel has right now, once enough slots are free to encode a full batch.
    fn take(&mut self, input: &Receiver<PreparedSample>) -> Vec<PreparedSample> {
        let size = self.batch_size();
        let mut batch = Vec::new();
        if self.captioner.room() < size {
            return batch;
        }
        while batch.len() < size {
            if let Some(sample) = self.again.pop_front() {
                batch.push(sample);
                continue;
            }
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
        let pixels: Vec<u8> = batch.iter().flat_map(|s| s.pixels.iter().copied()).collect();
        let first = self.next_ticket;
        self.next_ticket += batch.len() as u64;
        let images: Vec<Admission> = (first..)
            .zip(&batch)
            .map(|(ticket, s)| Admission { ticket, seed: image_seed(self.settings.seed, &s.key) })
            .collect();
        let Err(error) = self.captioner.admit(&images, &pixels) else {
            self.in_hand.extend(images.iter().map(|i| i.ticket).zip(batch));
            return Ok(true);
        };
        if error.is_out_of_memory() && self.captioner.max_slots() > 1 {
            self.again.extend(batch);
            self.make_do(error)?;
            return Ok(true);
        }
        if error.is_out_of_memory() {
            return Err(error.into());
        }
        if batch.len() == 1 {
            // An image is to blame only where another one passes.
            self.captioner.probe()?;
            return Ok(batch.into_iter().all(|sample| emit(model_error(sample, &error))));
        }
        tracing::warn!(images = batch.len(), %error, "the image encoder failed on a batch; trying one by one");
        for sample in batch {
            if !self.admit(vec![sample], emit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on with half the slots after memory ran out; any other error, or one with a single slot, is the lane's end.
    fn make_do(&mut self, error: RuntimeError) -> Result<(), CaptionError> {
        let halved = if error.is_out_of_memory() { self.captioner.halve() } else { None };
        let Some(tickets) = halved else { return Err(error.into()) };
        tracing::warn!(
            images = self.captioner.max_slots(),
            %error,
            "memory ran out; going on with half as many images at a time (run.batch_size)"
        );
        self.again.extend(tickets.iter().filter_map(|ticket| self.in_hand.remove(ticket)));
        Ok(())
    }

    /// Decodes the images in hand each alone, after a step failed with all of them: the one that is to blame is rejected.
    fn one_by_one(
        &mut self,
        error: &RuntimeError,
        emit: &mut impl FnMut(Finished) -> bool,
    ) -> Result<bool, CaptionError> {
        let mut suspects: Vec<(u64, PreparedSample)> = Vec::new();
        for ticket in self.captioner.reset() {
            suspects.extend(self.in_hand.remove(&ticket).map(|sample| (ticket, sample)));
        }
        suspects.sort_by_key(|(ticket, _)| *ticket);
        tracing::warn!(images = suspects.len(), %error, "the decoder failed on a batch; trying one by one");
        for (_, sample) in suspects {
            if !self.admit(vec![sample], emit)? {
                return Ok(false);
            }
            while self.captioner.active() > 0 {
                match self.captioner.step() {
                    Ok(done) => done.into_iter().try_for_each(|generated| self.decoded(generated))?,
                    Err(error) if error.is_out_of_memory() => return Err(error.into()),
                    Err(error) => {
                        let guilty = self.captioner.reset();
                        // An image is to blame only where another one passes.
                        self.works()?;
                        for sample in guilty.iter().filter_map(|ticket| self.in_hand.remove(ticket)) {
                            if !emit(model_error(sample, &error)) {
                                return Ok(false);
                            }
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether encoder and decoder work at all, with no image in hand: they are given a grey one.
    fn works(&mut self) -> Result<(), CaptionError> {
        let grey = vec![128; self.captioner.image_bytes()];
        self.captioner.admit(&[Admission { ticket: u64::MAX, seed: 0 }], &grey)?;
        while self.captioner.active() > 0 {
            for generated in self.captioner.step()? {
                // Of a ticket that nobody has: what else was ready is kept, this is forgotten.
                self.decoded(generated)?;
            }
        }
        Ok(())
    }

    fn decoded(&mut self, generated: Generated) -> Result<(), CaptionError> {
        let Some(mut sample) = self.in_hand.remove(&generated.ticket) else { return Ok(()) };
        let (mut texts, mut logprobs) = (Vec::new(), Vec::new());
        for candidate in generated.candidates {
            texts.push(if self.settings.keep_prompt {
                self.tokenizer.decode(&[&self.settings.caption.prompt[..], &candidate.ids].concat())?
            } else {
                self.tokenizer.decode(&candidate.ids)?
            });
            logprobs.push(candidate.logprob);
        }
        texts.extend(sample.org_caption.clone());
        self.to_score.push(ScoreJob {
            key: sample.key.clone(),
            image: if self.scorer.is_separate() {
                let shared = || std::mem::take(&mut sample.pixels);
                ScoreImage::Pixels(sample.scorer_pixels.take().unwrap_or_else(shared))
            } else {
                ScoreImage::Features(generated.image_features)
            },
            texts,
            payload: (sample, logprobs),
        });
        Ok(())
    }

    fn flush(&mut self, emit: &mut impl FnMut(Finished) -> bool) -> Result<bool, CaptionError> {
        let jobs = std::mem::take(&mut self.to_score);
        let Unscored { error, jobs } = match self.scorer.score(jobs) {
            Ok(scored) => {
                let mut finished = scored.into_iter().filter_map(|job| finish(job, &self.settings));
                return Ok(finished.all(emit));
            }
            Err(unscored) => unscored,
        };
        if jobs.len() > 1 {
            tracing::warn!(jobs = jobs.len(), %error, "the scorer failed on a batch; trying one by one");
            for job in jobs {
                self.to_score = vec![job];
                if !self.flush(emit)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        // A sample is to blame only where another one passes.
        self.scorer.probe()?;
        Ok(jobs.into_iter().all(|job| emit(model_error(job.payload.0, &error))))
    }
}

fn model_error(sample: PreparedSample, error: &dyn std::fmt::Display) -> Finished {
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
        embeddings: None,
    }
}

/// The generated texts come first, the original one, if there is one, last.
fn finish(job: ScoredJob<(PreparedSample, Vec<f32>)>, settings: &LaneSettings) -> Option<Finished> {
    let (sample, logprobs) = job.payload;
    let mut texts = job.texts;
    let original = if sample.org_caption.is_some() { texts.pop() } else { None };
    let embeddings = job.features.map(|Features { image, mut texts }| {
        let last = texts.len().saturating_sub(image.len());
        Embeddings { original: original.is_some().then(|| texts.split_off(last)), image }
    });
    let candidates = texts
        .into_iter()
        .zip(logprobs)
        .map(|((text, similarity), logprob)| Candidate { text, similarity, logprob })
        .collect();
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
    Some(Finished { shard, index, outcome: settings.filter.apply(row), texts_cut: job.cut, embeddings })
}
