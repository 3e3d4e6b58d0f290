//! `Candidates -> CaptionRow | Reject`: ids to text, similarities, filter.
//!
//! Runs on the captioner's thread, or on one of its own behind it. Captions are scored in small groups; a sample on which the
//! scorer fails alone is rejected as `model_error`.

use recaption_onnx::tokenizer::{Tokenizer, TokenizerError};
use recaption_schemas::{Candidate, Candidates, CaptionRow, EmbeddedImage};

use super::{CaptionWorkerSettings, Emit, Stop, generate::Captioned, model_error};
use crate::score::{Features, ScoreImage, ScoreJob, ScoredJob, Scorer, Unscored};
use recaption_messages::PreparedSample;
use recaption_messages::{Embeddings, SampleResult};

/// A sample with the log-probabilities of its captions.
type Payload = (PreparedSample, Vec<f32>);

/// Scorer and tokenizer, and the captions that wait for a group to fill.
pub struct ScoreStage<'a> {
    scorer: &'a mut Scorer,
    tokenizer: &'a Tokenizer,
    settings: &'a CaptionWorkerSettings,
    emit: Emit<'a>,
    /// Captions that are scored together.
    group: usize,
    waiting: Vec<ScoreJob<Payload>>,
}

impl<'a> ScoreStage<'a> {
    /// Scores in groups of `group` captioned images.
    pub fn new(
        (scorer, tokenizer): (&'a mut Scorer, &'a Tokenizer),
        settings: &'a CaptionWorkerSettings,
        emit: Emit<'a>,
        group: usize,
    ) -> Self {
        Self { scorer, tokenizer, settings, emit, group, waiting: Vec::new() }
    }

    /// Takes a captioned image; scores if a group is full.
    ///
    /// # Errors
    /// When a model fails on more than single samples; the samples come back.
    pub fn push(&mut self, captioned: Captioned) -> Result<(), Stop> {
        let job = self.job(captioned)?;
        self.waiting.push(job);
        if self.waiting.len() >= self.group { self.flush() } else { Ok(()) }
    }

    fn job(&self, captioned: Captioned) -> Result<ScoreJob<Payload>, Stop> {
        let Captioned { sample, generated } = captioned;
        let (mut texts, mut logprobs) = (Vec::new(), Vec::new());
        for candidate in generated.candidates {
            match self.text(&candidate.ids) {
                Ok(text) => texts.push(text),
                Err(error) => return Err(Stop::failed(error, vec![sample])),
            }
            logprobs.push(candidate.logprob);
        }
        texts.extend(sample.org_caption.clone());
        Ok(ScoreJob {
            key: sample.key.clone(),
            image: if self.scorer.is_separate() {
                ScoreImage::Pixels(sample.scorer_pixels.clone().unwrap_or_else(|| sample.pixels.clone()))
            } else {
                ScoreImage::Features(generated.image_features)
            },
            texts,
            payload: (sample, logprobs),
        })
    }

    fn text(&self, ids: &[i64]) -> Result<String, TokenizerError> {
        if self.settings.keep_prompt {
            self.tokenizer.decode(&[&self.settings.caption.prompt[..], ids].concat())
        } else {
            self.tokenizer.decode(ids)
        }
    }

    /// Scores what waits.
    ///
    /// # Errors
    /// As [`ScoreStage::push`].
    pub fn flush(&mut self) -> Result<(), Stop> {
        let jobs = std::mem::take(&mut self.waiting);
        let Unscored { error, jobs } = match self.scorer.score(jobs) {
            Ok(scored) => return self.emit_all(scored),
            Err(unscored) => unscored,
        };
        if jobs.len() > 1 {
            tracing::warn!(jobs = jobs.len(), %error, "the scorer failed on a batch; trying its samples one by one");
            let mut jobs = jobs.into_iter();
            while let Some(job) = jobs.next() {
                self.waiting = vec![job];
                if let Err(stop) = self.flush() {
                    return Err(stop.with(jobs.map(|job| job.payload.0)));
                }
            }
            return Ok(());
        }
        // A sample is to blame only where another one passes.
        let mut samples = jobs.into_iter().map(|job| job.payload.0);
        if let Err(error) = self.scorer.probe() {
            return Err(Stop::failed(error, samples.collect()));
        }
        samples.try_for_each(|sample| (self.emit)(model_error(sample, &error)))
    }

    /// Samples that wait for a group to fill.
    pub fn into_samples(self) -> impl Iterator<Item = PreparedSample> {
        self.waiting.into_iter().map(|job| job.payload.0)
    }

    fn emit_all(&self, scored: Vec<ScoredJob<Payload>>) -> Result<(), Stop> {
        scored.into_iter().filter_map(|job| finish(job, self.settings)).try_for_each(|done| (self.emit)(done))
    }
}

/// The generated texts come first, the original one, if there is one, last.
fn finish(
    job: ScoredJob<(PreparedSample, Vec<f32>)>,
    settings: &CaptionWorkerSettings,
) -> Option<SampleResult> {
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
    Some(SampleResult { shard, index, outcome: settings.filter.apply(row), texts_cut: job.cut, embeddings })
}
