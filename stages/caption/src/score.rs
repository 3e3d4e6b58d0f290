//! `Candidates -> Scored`: similarity of image and text, for the synthetic and the original caption.
//!
//! Runs on the caption stage's thread. The scorer is the captioner's own two towers, fed with the features that captioning
//! computed anyway, or a model of its own, usually a CLIP, with an image encoder of its own.

use bytes::Bytes;
use recaption_onnx::{
    model::ModelFolder,
    runtime::{ImageEncoder, RuntimeError, SessionOptions, TextEncoder},
    tokenizer::{TextIds, Tokenizer, TokenizerError},
};
use recaption_schemas::Similarity;

/// Why a text cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The text encoder.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model yields something that is no number.
    #[error("the similarity of key {0} is not a number: the model's features are broken")]
    NotANumber(String),
}

/// The image of a job.
pub enum ScoreImage {
    /// Its embedding by the captioner, L2-normalised, `[E]`.
    Features(Vec<f32>),
    /// Its pixels as the scorer wants them, u8 RGB, `[S, S, 3]`.
    Pixels(Bytes),
}

/// Texts to be compared with one image.
pub struct ScoreJob<T> {
    /// Handed back with the result.
    pub payload: T,
    /// The sample's key, for errors.
    pub key: String,
    /// The image.
    pub image: ScoreImage,
    /// Generated texts, then the original one if there is one.
    pub texts: Vec<String>,
}

/// The embeddings that similarities were made of, L2-normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Of the image, `[E]`.
    pub image: Vec<f32>,
    /// Of the texts, in the job's order, `[texts, E]`.
    pub texts: Vec<f32>,
}

/// A job's result: one similarity per text.
pub struct ScoredJob<T> {
    /// What came with the job.
    pub payload: T,
    /// The job's texts with their cosines, in the job's order.
    pub texts: Vec<(String, Similarity)>,
    /// Texts that were cut to the context.
    pub cut: u64,
    /// Where [`Scorer::keep_features`] asked for them.
    pub features: Option<Features>,
}

/// Jobs that could not be scored together.
pub struct Unscored<T> {
    /// Why.
    pub error: ScoreError,
    /// All of them, as they were.
    pub jobs: Vec<ScoreJob<T>>,
}

/// What was found out about a job's texts.
#[derive(Default)]
struct Judgement {
    similarities: Vec<Similarity>,
    cut: u64,
    /// `[texts, E]`, where they are kept.
    features: Vec<f32>,
}

/// The model that judges.
pub struct Scorer {
    /// Of a scorer of its own; the captioner hands over features.
    image: Option<ImageEncoder>,
    /// Images encoded together, at most.
    encode_batch: usize,
    text: TextEncoder,
    tokenizer: Tokenizer,
    keep_features: bool,
}

impl Scorer {
    /// The captioner's own towers.
    ///
    /// # Errors
    /// When the text encoder or the tokenizer cannot be loaded.
    pub fn of_captioner(model: &ModelFolder, options: &SessionOptions) -> Result<Self, ScoreError> {
        Ok(Self {
            image: None,
            encode_batch: options.execution.encode_batch(),
            text: TextEncoder::load(model, options)?,
            tokenizer: Tokenizer::load(model)?,
            keep_features: false,
        })
    }

    /// A model of its own, CLIP or CoCa, with jobs that bring pixels.
    ///
    /// # Errors
    /// When an encoder or the tokenizer cannot be loaded.
    pub fn separate(model: &ModelFolder, options: &SessionOptions) -> Result<Self, ScoreError> {
        let image = Some(ImageEncoder::load(model, options)?);
        Ok(Self { image, ..Self::of_captioner(model, options)? })
    }

    /// Whether results carry the embeddings; they don't at first.
    pub fn keep_features(&mut self, keep: bool) {
        self.keep_features = keep;
    }

    /// Whether jobs must bring pixels instead of the captioner's features.
    #[must_use]
    pub fn is_separate(&self) -> bool {
        self.image.is_some()
    }

    /// Scores all jobs in as few calls as their lengths allow. A result does not depend on the other jobs.
    ///
    /// # Errors
    /// When the model fails or yields no numbers: the jobs come back with it.
    pub fn score<T>(&mut self, mut jobs: Vec<ScoreJob<T>>) -> Result<Vec<ScoredJob<T>>, Unscored<T>> {
        let judged = self.encode_images(&mut jobs).and_then(|()| self.judge(&jobs));
        let judgements = match judged {
            Ok(judgements) => judgements,
            Err(error) => return Err(Unscored { error, jobs }),
        };
        let scored = jobs.into_iter().zip(judgements).map(|(job, judgement)| {
            let texts = job.texts.into_iter().zip(judgement.similarities).collect();
            let features = match (self.keep_features, job.image) {
                (true, ScoreImage::Features(image)) => Some(Features { image, texts: judgement.features }),
                _ => None,
            };
            ScoredJob { payload: job.payload, texts, cut: judgement.cut, features }
        });
        Ok(scored.collect())
    }

    /// One judgement per job, whose images have features.
    fn judge<T>(&mut self, jobs: &[ScoreJob<T>]) -> Result<Vec<Judgement>, ScoreError> {
        let mut ids: Vec<TextIds> = Vec::new();
        for text in jobs.iter().flat_map(|job| &job.texts) {
            ids.push(self.tokenizer.encode(text)?);
        }
        let slices: Vec<&[i64]> = ids.iter().map(|t| t.ids.as_slice()).collect();
        let features = self.text.encode(&slices)?;
        let mut rows = features.chunks_exact(self.text.embed_dim()).zip(&ids);
        let mut judgements = Vec::with_capacity(jobs.len());
        for job in jobs {
            let ScoreImage::Features(image) = &job.image else {
                let what =
                    format!("key {}: the captioner as its own scorer takes features, not pixels", job.key);
                return Err(RuntimeError::Input(what).into());
            };
            let mut judgement = Judgement::default();
            // `take` first: `zip` must not take a row that belongs to the next job.
            for (features, ids) in rows.by_ref().take(job.texts.len()) {
                let similarity = Similarity::new(dot(image, features))
                    .ok_or_else(|| ScoreError::NotANumber(job.key.clone()))?;
                judgement.similarities.push(similarity);
                judgement.cut += u64::from(ids.truncated);
                if self.keep_features {
                    judgement.features.extend_from_slice(features);
                }
            }
            judgements.push(judgement);
        }
        Ok(judgements)
    }

    /// Whether the model works at all: it is given a word, and a grey image if it has eyes of its own.
    ///
    /// # Errors
    /// What the model says.
    pub fn probe(&mut self) -> Result<(), ScoreError> {
        if let Some(encoder) = &mut self.image {
            encoder.encode(&vec![128; encoder.image_bytes()])?;
        }
        let ids = self.tokenizer.encode("a")?;
        self.text.encode(&[&ids.ids])?;
        Ok(())
    }

    /// Turns every job's pixels into features.
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
            let now = &mut waiting[done..done + count];
            let pixels: Vec<u8> = now.iter().flat_map(|(_, pixels)| pixels.iter().copied()).collect();
            let features = match encoder.encode(&pixels) {
                Ok(encoded) => encoded.features,
                Err(error) if error.is_out_of_memory() && count > 1 => {
                    self.encode_batch = count / 2;
                    tracing::warn!(images = self.encode_batch, %error, "memory ran out; the scorer goes on with half as many images at a time");
                    continue;
                }
                Err(error) => {
                    // Back to their jobs, which may be scored one by one.
                    for (image, pixels) in waiting.into_iter().skip(done) {
                        *image = ScoreImage::Pixels(pixels);
                    }
                    return Err(error.into());
                }
            };
            let width = features.len() / count;
            for ((image, _), features) in now.iter_mut().zip(features.chunks_exact(width)) {
                **image = ScoreImage::Features(features.to_vec());
            }
            done += count;
        }
        Ok(())
    }
}

/// In f64, so that the order of summation does not matter at f32's precision.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}
