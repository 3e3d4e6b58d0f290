//! `Candidates -> Scored`: similarity of image and text, for the synthetic and the original caption.
//!
//! Runs on the caption stage's thread. The scorer is a model of its own kind: today it is the captioner's own two towers,
//! fed with the features that captioning computed anyway; another model comes in here with features of its own.

use recaption_onnx::{
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions, TextEncoder},
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

/// Texts to be compared with one image.
pub struct ScoreJob<T> {
    /// Handed back with the result.
    pub payload: T,
    /// The sample's key, for errors.
    pub key: String,
    /// L2-normalised image embedding, `[E]`.
    pub image_features: Vec<f32>,
    /// Generated texts, then the original one if there is one.
    pub texts: Vec<String>,
}

/// A job's result: one similarity per text.
pub struct ScoredJob<T> {
    /// What came with the job.
    pub payload: T,
    /// The job's texts with their cosines, in the job's order.
    pub texts: Vec<(String, Similarity)>,
    /// Texts that were cut to the context.
    pub cut: u64,
}

/// The model that judges. Text only: image features come from the captioner.
pub struct Scorer {
    text: TextEncoder,
    tokenizer: Tokenizer,
}

impl Scorer {
    /// The captioner's own towers.
    ///
    /// # Errors
    /// When the text encoder or the tokenizer cannot be loaded.
    pub fn of_captioner(model: &ModelFolder, options: &SessionOptions) -> Result<Self, ScoreError> {
        Ok(Self { text: TextEncoder::load(model, options)?, tokenizer: Tokenizer::load(model)? })
    }

    /// Scores all jobs in as few calls as their lengths allow. A result does not depend on the other jobs.
    ///
    /// # Errors
    /// When the model fails or yields no numbers.
    pub fn score<T>(&mut self, jobs: Vec<ScoreJob<T>>) -> Result<Vec<ScoredJob<T>>, ScoreError> {
        let mut ids: Vec<TextIds> = Vec::new();
        for text in jobs.iter().flat_map(|job| &job.texts) {
            ids.push(self.tokenizer.encode(text)?);
        }
        let slices: Vec<&[i64]> = ids.iter().map(|t| t.ids.as_slice()).collect();
        let features = self.text.encode(&slices)?;
        let mut rows = features.chunks_exact(self.text.embed_dim()).zip(&ids);
        let mut scored = Vec::with_capacity(jobs.len());
        for job in jobs {
            let (mut texts, mut cut) = (Vec::with_capacity(job.texts.len()), 0);
            // Texts first: `zip` must not take a row that belongs to the next job.
            for (text, (features, ids)) in job.texts.into_iter().zip(rows.by_ref()) {
                let similarity = Similarity::new(dot(&job.image_features, features))
                    .ok_or_else(|| ScoreError::NotANumber(job.key.clone()))?;
                texts.push((text, similarity));
                cut += u64::from(ids.cut);
            }
            scored.push(ScoredJob { payload: job.payload, texts, cut });
        }
        Ok(scored)
    }
}

/// In f64, so that the order of summation does not matter at f32's precision.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}
