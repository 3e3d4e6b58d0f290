//! Texts and scores for generated tokens: [`CaptionedImage`] to [`SampleResult`].
//!
//! Detokenises, scores and matches generated and original captions, lets the filter choose and decide, and emits the result. Captions wait
//! until a group is full or the stage is flushed. A sample on which the scorer fails alone is rejected as `model_error`.

use std::time::Instant;

use recaption_messages::{Embeddings, PreparedSample, SampleResult};
use recaption_onnx::tokenizer::{Tokenizer, TokenizerError};
use recaption_schemas::{Candidate, Candidates, CaptionRow, EmbeddedImage, Similarity};

use crate::{
    counters::CaptionCounters,
    generate::CaptionedImage,
    interruption::{Emit, Interruption, model_error},
    scorer::{FailedJobs, ScoreFeatures, ScoreImage, ScoreJob, ScoredJob, Scorer},
    settings::CaptionWorkerSettings,
};

/// A sample with the log-probabilities of its candidates, in the order generated.
type Payload = (PreparedSample, Vec<f32>);

/// Scorer and tokenizer, and the captions that wait for a group to fill.
pub(crate) struct ScoreStage<'a> {
    scorer: &'a mut Scorer,
    tokenizer: &'a Tokenizer,
    counters: &'a CaptionCounters,
    settings: &'a CaptionWorkerSettings,
    emit: Emit<'a>,
    /// Number of captioned images that are scored together.
    group: usize,
    waiting: Vec<ScoreJob<Payload>>,
}

impl<'a> ScoreStage<'a> {
    /// Creates a stage that scores in groups of `group` captioned images.
    pub(crate) fn new(
        (scorer, tokenizer, counters): (&'a mut Scorer, &'a Tokenizer, &'a CaptionCounters),
        settings: &'a CaptionWorkerSettings,
        emit: Emit<'a>,
        group: usize,
    ) -> Self {
        Self { scorer, tokenizer, counters, settings, emit, group, waiting: Vec::new() }
    }

    /// Takes a captioned image; scores once a group is full.
    ///
    /// # Errors
    /// Fails when a model fails on more than single samples; the samples come back.
    pub(crate) fn push(&mut self, captioned: CaptionedImage) -> Result<(), Interruption> {
        let job = self.job(captioned)?;
        self.waiting.push(job);
        if self.waiting.len() >= self.group { self.flush() } else { Ok(()) }
    }

    /// Scores the captions that wait.
    ///
    /// # Errors
    /// Fails as [`ScoreStage::push`] does.
    pub(crate) fn flush(&mut self) -> Result<(), Interruption> {
        let jobs = std::mem::take(&mut self.waiting);
        if jobs.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let settings = self.settings;
        let select = |job: &ScoreJob<Payload>, similarities: &[Similarity]| {
            // Similarities of candidates; the original caption's comes after them.
            let candidates = job.texts.iter().map(String::as_str).zip(similarities.iter().copied());
            let candidates: Vec<(&str, Similarity)> = candidates.take(job.payload.1.len()).collect();
            let mut selected = settings.filter.to_match(&candidates, settings.itm_top_k);
            if settings.match_original && job.payload.0.org_caption.is_some() {
                selected.extend(job.texts.len().checked_sub(1));
            }
            selected
        };
        let scored = self.scorer.score_and_match(jobs, select);
        self.counters.scorer.observe(began.elapsed());
        let FailedJobs { error, jobs } = match scored {
            Ok(scored) => return self.emit_all(scored),
            Err(failed) => failed,
        };
        if jobs.len() > 1 {
            tracing::warn!(samples = jobs.len(), %error, "scorer failed on a batch; scoring its samples one by one");
            let mut jobs = jobs.into_iter();
            while let Some(job) = jobs.next() {
                self.waiting = vec![job];
                if let Err(interruption) = self.flush() {
                    return Err(interruption.with(jobs.map(|job| job.payload.0)));
                }
            }
            return Ok(());
        }
        // The sample is the cause only if another one succeeds.
        let mut samples = jobs.into_iter().map(|job| job.payload.0);
        if let Err(error) = self.scorer.probe() {
            return Err(Interruption::failed(error, samples.collect()));
        }
        samples.try_for_each(|sample| (self.emit)(model_error(sample, &error)))
    }

    /// Returns the samples that wait for a group to fill.
    pub(crate) fn into_samples(self) -> impl Iterator<Item = PreparedSample> {
        self.waiting.into_iter().map(|job| job.payload.0)
    }

    /// Detokenises the candidates; the original caption, if there is one, is the job's last text.
    fn job(&self, captioned: CaptionedImage) -> Result<ScoreJob<Payload>, Interruption> {
        let CaptionedImage { sample, generated } = captioned;
        let (mut texts, mut logprobs) = (Vec::new(), Vec::new());
        for candidate in generated.candidates {
            match self.detokenise(&candidate.ids) {
                Ok(text) => texts.push(text),
                Err(error) => return Err(Interruption::failed(error, vec![sample])),
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

    fn detokenise(&self, ids: &[i64]) -> Result<String, TokenizerError> {
        if self.settings.keep_prompt {
            self.tokenizer.decode(&[&self.settings.caption.prompt[..], ids].concat())
        } else {
            self.tokenizer.decode(ids)
        }
    }

    fn emit_all(&self, scored: Vec<ScoredJob<Payload>>) -> Result<(), Interruption> {
        let mut results = scored.into_iter().filter_map(|job| sample_result(job, self.settings));
        results.try_for_each(|result| (self.emit)(result))
    }
}

/// Builds a sample's row and lets the filter decide. Returns `None` only for a job without candidates, which no captioner makes.
fn sample_result(job: ScoredJob<Payload>, settings: &CaptionWorkerSettings) -> Option<SampleResult> {
    let (sample, logprobs) = job.payload;
    let mut texts = job.texts;
    let original = if sample.org_caption.is_some() { texts.pop() } else { None };
    let embeddings = job.features.map(|ScoreFeatures { image, mut texts }| {
        let last = texts.len().saturating_sub(image.len());
        Embeddings { original: original.is_some().then(|| texts.split_off(last)), image }
    });
    let candidates = texts
        .into_iter()
        .zip(logprobs)
        .map(|(scored, logprob)| Candidate {
            text: scored.text,
            similarity: scored.similarity,
            logprob,
            itm: scored.itm,
        })
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
        org_similarity: original.as_ref().map(|original| original.similarity),
        org_itm: original.and_then(|original| original.itm),
        width: sample.width,
        height: sample.height,
        sha256: sample.sha256,
        url: sample.url,
        meta: sample.meta,
        image,
    };
    let outcome = settings.filter.apply(row);
    Some(SampleResult { shard, index, outcome, texts_cut: job.texts_cut, embeddings })
}
