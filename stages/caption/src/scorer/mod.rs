//! Similarity of images and texts, for generated and for original captions.
//!
//! A [`Scorer`] is synchronous and runs on its caller's thread. It is either the captioner's own two towers, which reuse the
//! image features of captioning, or a separate model, usually a CLIP, with an image encoder of its own. A captioner that scores
//! its own captions measures its own training objective: such similarities compare captions of one image, not captioners.
//!
//! A separate model may have a matching head too (ITM): a text encoder that attends to the image's tokens. It costs a pass per text, so
//! that the caller selects by similarity which texts are matched. The image is encoded once for both.

mod error;
mod job;
mod matching;

use std::fmt;

use bytes::Bytes;
use recaption_onnx::{
    model::ModelFolder,
    runtime::{ImageEncoder, MatchStart, Matcher, RuntimeError, SessionOptions, TextEncoder},
    tokenizer::{TextIds, Tokenizer},
};
use recaption_schemas::{MatchProbability, Similarity};

pub use self::{
    error::ScoreError,
    job::{FailedJobs, ScoreFeatures, ScoreImage, ScoreJob, ScoredJob, ScoredText},
};

/// Value of every channel of every pixel of the probe image.
const PROBE_GREY: u8 = 128;
/// Text of a probe: one token in any vocabulary of CLIP's kind.
const PROBE_TEXT: &str = "a";

/// Scores of one job's texts, in the job's order.
#[derive(Default)]
struct TextScores {
    similarities: Vec<Similarity>,
    /// Ids of the texts, each with start and end.
    ids: Vec<TextIds>,
    /// Probabilities of the texts that were matched, else `None`.
    itm: Vec<Option<MatchProbability>>,
    /// `[texts, E]` where they are kept, else empty.
    features: Vec<f32>,
}

/// A model that computes similarities of images and texts.
pub struct Scorer {
    /// Of a separate scorer; the captioner hands over features.
    image: Option<ImageEncoder>,
    /// Largest number of images that are encoded together; halved when memory runs out.
    encode_batch: usize,
    text: TextEncoder,
    /// The matching head, if texts are matched.
    matcher: Option<Matcher>,
    tokenizer: Tokenizer,
    keep_features: bool,
}

impl fmt::Debug for Scorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scorer")
            .field("is_separate", &self.is_separate())
            .field("matches", &self.matches())
            .field("encode_batch", &self.encode_batch)
            .field("keep_features", &self.keep_features)
            .finish_non_exhaustive()
    }
}

impl Scorer {
    /// Loads the captioner's own towers; jobs bring [`ScoreImage::Features`].
    ///
    /// # Errors
    /// Fails when the text encoder or the tokenizer cannot be loaded.
    pub fn of_captioner(model: &ModelFolder, options: &SessionOptions) -> Result<Self, ScoreError> {
        Ok(Self {
            image: None,
            encode_batch: options.execution.encode_batch(model),
            text: TextEncoder::load(model, options)?,
            matcher: None,
            tokenizer: Tokenizer::load(model)?,
            keep_features: false,
        })
    }

    /// Loads a separate model, CLIP or CoCa; jobs bring [`ScoreImage::Pixels`].
    ///
    /// # Errors
    /// Fails when an encoder or the tokenizer cannot be loaded.
    pub fn separate(model: &ModelFolder, options: &SessionOptions) -> Result<Self, ScoreError> {
        let image = Some(ImageEncoder::load(model, options)?);
        Ok(Self { image, ..Self::of_captioner(model, options)? })
    }

    /// As [`Scorer::separate`], with the model's matching head, for [`Scorer::score_and_match`].
    ///
    /// # Errors
    /// As [`Scorer::separate`], and when the model has no matching head.
    pub fn matching(model: &ModelFolder, options: &SessionOptions) -> Result<Self, ScoreError> {
        let matcher = Some(Matcher::load(model, options, MatchStart::default())?);
        Ok(Self { matcher, ..Self::separate(model, options)? })
    }

    /// Sets whether results carry features; off by default.
    pub fn keep_features(&mut self, keep: bool) {
        self.keep_features = keep;
    }

    /// Returns whether jobs must bring pixels instead of the captioner's features.
    #[must_use]
    pub fn is_separate(&self) -> bool {
        self.image.is_some()
    }

    /// Returns whether texts can be matched with images.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.matcher.is_some()
    }

    /// Scores all jobs in as few calls as their lengths allow. A result does not depend on the other jobs.
    ///
    /// # Errors
    /// Fails when the model fails or its features are not finite; the jobs come back with the error.
    pub fn score<T>(&mut self, jobs: Vec<ScoreJob<T>>) -> Result<Vec<ScoredJob<T>>, FailedJobs<T>> {
        self.score_and_match(jobs, |_, _| Vec::new())
    }

    /// As [`Scorer::score`], and matches the texts of each job that `select` returns the positions of, given the job and the
    /// similarities of its texts. Without a matching head none is matched.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub fn score_and_match<T>(
        &mut self,
        mut jobs: Vec<ScoreJob<T>>,
        select: impl Fn(&ScoreJob<T>, &[Similarity]) -> Vec<usize>,
    ) -> Result<Vec<ScoredJob<T>>, FailedJobs<T>> {
        let scores = self.encode_images(&mut jobs).and_then(|()| self.score_texts(&jobs));
        let scores = scores.and_then(|mut scores| {
            self.match_texts(&jobs, &mut scores, select)?;
            Ok(scores)
        });
        let scores = match scores {
            Ok(scores) => scores,
            Err(error) => return Err(FailedJobs { error, jobs }),
        };
        let scored = jobs.into_iter().zip(scores).map(|(job, scores)| {
            let texts = job.texts.into_iter().zip(scores.similarities).zip(scores.itm);
            let texts = texts.map(|((text, similarity), itm)| ScoredText { text, similarity, itm }).collect();
            let features = match (self.keep_features, job.image) {
                (true, ScoreImage::Features(image) | ScoreImage::Encoded { features: image, .. }) => {
                    Some(ScoreFeatures { image, texts: scores.features })
                }
                _ => None,
            };
            let texts_cut = scores.ids.iter().filter(|ids| ids.truncated).count() as u64;
            ScoredJob { payload: job.payload, texts, texts_cut, features }
        });
        Ok(scored.collect())
    }

    /// Scores a word, and a grey image if the scorer is separate, which fails if the model fails on any input.
    ///
    /// # Errors
    /// Fails with the model's error.
    pub fn probe(&mut self) -> Result<(), ScoreError> {
        let ids = self.tokenizer.encode(PROBE_TEXT)?;
        if let Some(encoder) = &mut self.image {
            let grey = vec![PROBE_GREY; encoder.image_bytes()];
            match &mut self.matcher {
                Some(matcher) => {
                    let (_, tokens) = encoder.encode_for_matching(&grey)?;
                    matcher.logits(&tokens, &[&ids.ids])?;
                }
                None => drop(encoder.encode(&grey)?),
            }
        }
        self.text.encode(&[&ids.ids])?;
        Ok(())
    }

    /// Scores the texts of jobs whose images are features; one [`TextScores`] per job.
    fn score_texts<T>(&mut self, jobs: &[ScoreJob<T>]) -> Result<Vec<TextScores>, ScoreError> {
        let mut ids: Vec<TextIds> = Vec::new();
        for text in jobs.iter().flat_map(|job| &job.texts) {
            ids.push(self.tokenizer.encode(text)?);
        }
        let slices: Vec<&[i64]> = ids.iter().map(|t| t.ids.as_slice()).collect();
        let features = self.text.encode(&slices)?;
        let mut rows = features.chunks_exact(self.text.embed_dim()).zip(ids);
        let mut all = Vec::with_capacity(jobs.len());
        for job in jobs {
            let Some(image) = job.image.features() else {
                let what =
                    format!("key {}: the captioner as its own scorer takes features, not pixels", job.key);
                return Err(RuntimeError::Input(what).into());
            };
            let mut scores = TextScores::default();
            // `take` first: `zip` must not take a row that belongs to the next job.
            for (features, ids) in rows.by_ref().take(job.texts.len()) {
                let similarity = Similarity::new(dot(image, features))
                    .ok_or_else(|| ScoreError::NotFinite(job.key.clone()))?;
                scores.similarities.push(similarity);
                scores.ids.push(ids);
                scores.itm.push(None);
                if self.keep_features {
                    scores.features.extend_from_slice(features);
                }
            }
            all.push(scores);
        }
        Ok(all)
    }

    /// Replaces every job's pixels by features, and by tokens if texts are matched. On failure the pixels that are not encoded go back to their jobs.
    fn encode_images<T>(&mut self, jobs: &mut [ScoreJob<T>]) -> Result<(), ScoreError> {
        let Some(encoder) = &mut self.image else { return Ok(()) };
        let mut waiting: Vec<(&mut ScoreImage, Bytes)> = Vec::with_capacity(jobs.len());
        for job in jobs {
            if let ScoreImage::Pixels(pixels) = &mut job.image {
                let pixels = std::mem::take(pixels);
                waiting.push((&mut job.image, pixels));
            }
        }
        let mut done = 0;
        while done < waiting.len() {
            let count = self.encode_batch.clamp(1, waiting.len() - done);
            let batch = &mut waiting[done..done + count];
            let pixels: Vec<u8> = batch.iter().flat_map(|(_, pixels)| pixels.iter().copied()).collect();
            let encoded = match &self.matcher {
                Some(_) => encoder.encode_for_matching(&pixels),
                None => encoder.encode(&pixels).map(|encoded| (encoded.features, Vec::new())),
            };
            let (features, tokens) = match encoded {
                Ok(encoded) => encoded,
                Err(error) if error.is_out_of_memory() && count > 1 => {
                    self.encode_batch = count / 2;
                    tracing::warn!(batch = self.encode_batch, %error, "scorer out of memory; continuing with half the batch");
                    continue;
                }
                Err(error) => {
                    for (image, pixels) in waiting.into_iter().skip(done) {
                        *image = ScoreImage::Pixels(pixels);
                    }
                    return Err(error.into());
                }
            };
            let (width, size) = (features.len() / count, tokens.len() / count);
            for (i, (image, _)) in batch.iter_mut().enumerate() {
                let features = features[i * width..][..width].to_vec();
                **image = match size {
                    0 => ScoreImage::Features(features),
                    _ => ScoreImage::Encoded { features, tokens: tokens[i * size..][..size].to_vec() },
                };
            }
            done += count;
        }
        Ok(())
    }
}

/// Computes a dot product, summed in f64, so that the order of summation does not matter at f32's precision.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}
