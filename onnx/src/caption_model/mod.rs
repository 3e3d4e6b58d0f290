//! The whole path from images to captions: decode, resize, encode, generate, detokenise, score.

mod error;
mod input;
mod options;

use std::{collections::BTreeSet, path::Path};

use recaption_image::Pixels;
use recaption_schemas::sha256_hex;

pub use self::{error::CaptionError, input::ImageInput, options::CaptionOptions};
use crate::{
    caption::{Admission, Captioner, Generated, Strategy, image_seed},
    model::ModelFolder,
    runtime::{RuntimeError, TextEncoder},
    tokenizer::Tokenizer,
};

/// One caption of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// The text, with normalised white space.
    pub text: String,
    /// Sum of the model's log-probabilities of the generated tokens, end token included; natural logarithm, at most 0.
    pub log_probability: f32,
    /// Number of generated tokens, end token included.
    pub tokens: usize,
    /// Cosine of image and text in [-1, 1], with [`CaptionOptions::similarity`].
    pub similarity: Option<f32>,
}

impl Caption {
    /// Returns the mean log-probability per generated token; natural logarithm, at most 0.
    #[must_use]
    pub fn mean_log_probability(&self) -> f32 {
        self.log_probability / self.tokens.max(1) as f32
    }
}

/// A captioner that was exported from an open_clip CoCa checkpoint.
///
/// ```no_run
/// use recaption_onnx::{CaptionModel, CaptionOptions, caption::{SampleSettings, Strategy}};
///
/// // One greedy caption of a file.
/// let mut model = CaptionModel::open("model")?;
/// let caption = model.caption(&std::fs::read("cat.jpg")?)?;
/// println!("{} ({:.2} per token)", caption.text, caption.mean_log_probability());
///
/// // Five sampled captions of an image in memory, the best match with the image first.
/// let options = CaptionOptions {
///     strategy: Strategy::Sample(SampleSettings { top_p: 0.9, ..SampleSettings::default() }),
///     candidates: 5,
///     similarity: true,
///     ..CaptionOptions::default()
/// };
/// let mut model = CaptionModel::open_with("model", &options)?;
/// let image = image::open("cat.png")?;
/// for caption in model.candidates(&image)? {
///     println!("{:?} {}", caption.similarity, caption.text);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CaptionModel {
    model: ModelFolder,
    tokenizer: Tokenizer,
    captioner: Captioner,
    /// Scores captions; `None` without [`CaptionOptions::similarity`].
    text_encoder: Option<TextEncoder>,
    options: CaptionOptions,
    prompt: Vec<i64>,
}

impl CaptionModel {
    /// Opens the model folder `dir`, which `recaption export` or [`export`](crate::export()) wrote, with default options.
    ///
    /// # Errors
    /// When the folder is incomplete, has no decoder or no tokenizer, or ONNX Runtime cannot load its graphs.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CaptionError> {
        Self::open_with(dir, &CaptionOptions::default())
    }

    /// Opens a model folder with the given options, see [`CaptionModel::open`].
    ///
    /// # Errors
    /// As for [`CaptionModel::open`], and when an option does not fit the model or the provider does not work.
    pub fn open_with(dir: impl AsRef<Path>, options: &CaptionOptions) -> Result<Self, CaptionError> {
        let model = ModelFolder::open(dir.as_ref())?;
        let tokenizer = Tokenizer::load(&model)?;
        let prompt = options.prompt_ids(&tokenizer)?;
        let sessions = options.sessions(&model)?;
        let settings = options.settings(&model, sessions.execution, prompt.clone())?;
        let captioner = Captioner::load(&model, &sessions, settings)?;
        let text_encoder = options.similarity.then(|| TextEncoder::load(&model, &sessions)).transpose()?;
        Ok(Self { model, tokenizer, captioner, text_encoder, options: options.clone(), prompt })
    }

    /// Returns the model folder.
    #[must_use]
    pub fn folder(&self) -> &ModelFolder {
        &self.model
    }

    /// Captions one image.
    ///
    /// # Errors
    /// When the image cannot be decoded, or a graph fails.
    pub fn caption<'a>(&mut self, image: impl Into<ImageInput<'a>>) -> Result<Caption, CaptionError> {
        self.candidates(image)?.into_iter().next().ok_or_else(no_caption)
    }

    /// Returns all candidate captions of one image, at least one, the best first: by similarity if it is computed, else by
    /// log-probability (beam search: by its score).
    ///
    /// # Errors
    /// As for [`CaptionModel::caption`].
    pub fn candidates<'a>(&mut self, image: impl Into<ImageInput<'a>>) -> Result<Vec<Caption>, CaptionError> {
        self.candidates_batch([image])?.into_iter().next().ok_or_else(no_caption)
    }

    /// Captions several images, which is faster than one after another; captions are in the order of the images, and equal
    /// to those of single calls.
    ///
    /// # Errors
    /// As for [`CaptionModel::caption`]; [`CaptionError::Image`] has the index of the image. Nothing is captioned then.
    pub fn caption_batch<'a, I: Into<ImageInput<'a>>>(
        &mut self,
        images: impl IntoIterator<Item = I>,
    ) -> Result<Vec<Caption>, CaptionError> {
        let candidates = self.candidates_batch(images)?;
        candidates.into_iter().map(|all| all.into_iter().next().ok_or_else(no_caption)).collect()
    }

    /// Returns all candidate captions of several images, see [`CaptionModel::candidates`].
    ///
    /// # Errors
    /// As for [`CaptionModel::caption_batch`].
    pub fn candidates_batch<'a, I: Into<ImageInput<'a>>>(
        &mut self,
        images: impl IntoIterator<Item = I>,
    ) -> Result<Vec<Vec<Caption>>, CaptionError> {
        let preprocess = self.model.spec.preprocessing;
        let prepare = |(index, image): (usize, I)| {
            let image: ImageInput<'a> = image.into();
            image
                .prepare(&preprocess, &self.options.decode)
                .map_err(|source| CaptionError::Image { index, source })
        };
        let images = images.into_iter().enumerate().map(prepare).collect::<Result<Vec<Pixels>, _>>()?;
        let generated = match self.generate(&images) {
            Ok(generated) => generated,
            Err(error) => {
                // Images in flight, and finished ones that a failed step kept, must not come out of a later call.
                self.captioner.parts_mut().1.reset();
                let _ = self.captioner.step();
                return Err(error.into());
            }
        };
        generated.into_iter().map(|image| self.captions(image)).collect()
    }

    /// Generates the captions of all images, as many in flight as fit into memory.
    fn generate(&mut self, images: &[Pixels]) -> Result<Vec<Generated>, RuntimeError> {
        let mut waiting: BTreeSet<u64> = (0..images.len() as u64).collect();
        let mut finished: Vec<Generated> = Vec::with_capacity(images.len());
        while !waiting.is_empty() || self.captioner.active() > 0 {
            let free = self.captioner.free_slots();
            let is_refill = free >= (self.captioner.max_slots() / 4).max(1);
            let batch: Vec<u64> = waiting.iter().copied().take(if is_refill { free } else { 0 }).collect();
            let result = self.admit(&batch, images).and_then(|()| {
                waiting.retain(|ticket| !batch.contains(ticket));
                self.captioner.step()
            });
            match result {
                Ok(done) => finished.extend(done),
                Err(error) if error.is_out_of_memory() => {
                    let Some(in_flight) = self.captioner.halve_slots() else { return Err(error) };
                    tracing::warn!(images = self.captioner.max_slots(), %error, "out of memory; halved the batch");
                    waiting.extend(in_flight);
                }
                Err(error) => return Err(error),
            }
        }
        finished.sort_by_key(|image| image.ticket);
        Ok(finished)
    }

    fn admit(&mut self, tickets: &[u64], images: &[Pixels]) -> Result<(), RuntimeError> {
        let pixels = |ticket: &u64| images[*ticket as usize].as_slice();
        let admission = |ticket: &u64| {
            // A sampled caption depends on its image alone, not on its place in a batch.
            let is_sampled = matches!(self.options.strategy, Strategy::Sample(_));
            let key = if is_sampled { sha256_hex(pixels(ticket)) } else { String::new() };
            Admission { ticket: *ticket, seed: image_seed(self.options.seed, &key) }
        };
        let admissions: Vec<Admission> = tickets.iter().map(admission).collect();
        let pixels: Vec<u8> = tickets.iter().flat_map(pixels).copied().collect();
        self.captioner.admit(&admissions, &pixels)
    }

    /// Turns the generated ids of one image into captions, best first.
    fn captions(&mut self, image: Generated) -> Result<Vec<Caption>, CaptionError> {
        let mut captions = Vec::with_capacity(image.candidates.len());
        for candidate in image.candidates {
            let text = if self.options.keep_prompt {
                self.tokenizer.decode(&[&self.prompt[..], &candidate.ids].concat())?
            } else {
                self.tokenizer.decode(&candidate.ids)?
            };
            let (log_probability, tokens) = (candidate.logprob, candidate.ids.len());
            captions.push(Caption { text, log_probability, tokens, similarity: None });
        }
        if let Some(encoder) = &mut self.text_encoder {
            for caption in &mut captions {
                let text = encoder.encode(&[&self.tokenizer.encode(&caption.text)?.ids])?;
                let products =
                    image.image_features.iter().zip(&text).map(|(a, b)| f64::from(*a) * f64::from(*b));
                caption.similarity = Some((products.sum::<f64>() as f32).clamp(-1.0, 1.0));
            }
            captions.sort_by(|a, b| b.similarity.unwrap_or(-1.0).total_cmp(&a.similarity.unwrap_or(-1.0)));
        } else if matches!(self.options.strategy, Strategy::Sample(_)) {
            captions.sort_by(|a, b| b.log_probability.total_cmp(&a.log_probability));
        }
        Ok(captions)
    }
}

/// Returns the error for an image without captions, which the generator never yields.
fn no_caption() -> CaptionError {
    RuntimeError::Input("internal error: an image came out without captions".into()).into()
}
