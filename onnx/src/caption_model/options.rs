//! How a caption model is loaded, and what its captions are like.

use recaption_image::DecodeOptions;

use crate::{
    caption::{CaptionSettings, Strategy},
    model::ModelFolder,
    runtime::{Execution, Provider, RuntimeError, SessionOptions},
    tokenizer::{Tokenizer, TokenizerError},
};

/// Default of [`CaptionOptions::batch_size`] on a CPU, where more images in flight are not faster.
const CPU_BATCH_SIZE: usize = 32;
/// Default of [`CaptionOptions::batch_size`] on a GPU.
const GPU_BATCH_SIZE: usize = 256;
/// Default of [`CaptionOptions::cache_bytes`]: 2 GiB.
const CACHE_BYTES: u64 = 2 << 30;

/// How a [`CaptionModel`](crate::CaptionModel) is loaded, and how it captions. The default is one greedy caption per image.
///
/// ```
/// use recaption_onnx::{
///     CaptionOptions,
///     caption::{BeamSettings, Strategy},
/// };
///
/// let options = CaptionOptions {
///     strategy: Strategy::Beam(BeamSettings::default()),
///     candidates: 3,
///     prompt: "a photo of".into(),
///     similarity: true,
///     ..CaptionOptions::default()
/// };
/// assert_eq!(options.min_tokens, 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionOptions {
    /// How tokens are selected.
    pub strategy: Strategy,
    /// Captions per image: 1 for greedy, any number for sampling, at most `beams` for beam search.
    pub candidates: usize,
    /// Text that every caption starts with; empty for none.
    pub prompt: String,
    /// Whether returned texts include the prompt.
    pub keep_prompt: bool,
    /// Largest number of generated tokens, end token included; `None` is the most that the model can generate, or 19 for a BLIP
    /// (transformers' `max_length` = 20, which counts the start token).
    pub max_tokens: Option<usize>,
    /// Smallest number of tokens before the end token.
    pub min_tokens: usize,
    /// Whether captions are scored with the model's own towers, and candidates sorted by that score; an error for a BLIP captioner,
    /// which has none.
    pub similarity: bool,
    /// Seed of sampled captions, which otherwise depend on the image's pixels alone.
    pub seed: u64,
    /// Execution provider. `Auto` is CUDA if it works and the model is fp16, else the CPU.
    pub provider: Provider,
    /// Number of the GPU.
    pub device: u32,
    /// Threads per operator on the CPU; `None` is all cores.
    pub threads: Option<usize>,
    /// Largest number of images in flight; `None` is 32 on a CPU and 256 on a GPU.
    pub batch_size: Option<usize>,
    /// Bytes that caches may hold; fewer images are in flight if they do not fit.
    pub cache_bytes: u64,
    /// Limits on the images that are decoded.
    pub decode: DecodeOptions,
}

impl Default for CaptionOptions {
    fn default() -> Self {
        Self {
            strategy: Strategy::Greedy,
            candidates: 1,
            prompt: String::new(),
            keep_prompt: false,
            max_tokens: None,
            min_tokens: 1,
            similarity: false,
            seed: 0,
            provider: Provider::Auto,
            device: 0,
            threads: None,
            batch_size: None,
            cache_bytes: CACHE_BYTES,
            decode: DecodeOptions::default(),
        }
    }
}

impl CaptionOptions {
    /// Returns how sessions run, once the provider is known to work.
    pub(super) fn sessions(&self, model: &ModelFolder) -> Result<SessionOptions, RuntimeError> {
        let execution = Execution::resolve(self.provider, self.device, &[model])?;
        let default = SessionOptions::default();
        Ok(SessionOptions { execution, threads: self.threads.unwrap_or(default.threads), ..default })
    }

    /// Returns the settings of the generation; `prompt` holds the ids of the prompt.
    pub(super) fn settings(
        &self,
        model: &ModelFolder,
        execution: Execution,
        prompt: Vec<i64>,
    ) -> Result<CaptionSettings, RuntimeError> {
        let available = model.caption_tokens(prompt.len());
        let max_tokens = self.max_tokens.unwrap_or(available.default);
        if max_tokens > available.largest {
            return Err(RuntimeError::Input(format!(
                "max_tokens is {max_tokens}, but this model generates at most {} tokens after the prompt",
                available.largest
            )));
        }
        let batch_size = if execution.is_gpu() { GPU_BATCH_SIZE } else { CPU_BATCH_SIZE };
        Ok(CaptionSettings {
            strategy: self.strategy,
            candidates: self.candidates,
            prompt,
            max_tokens,
            min_tokens: self.min_tokens,
            max_slots: self.batch_size.unwrap_or(batch_size),
            cache_bytes: self.cache_bytes,
        })
    }

    /// Returns the ids of the prompt, without start and end token.
    pub(super) fn prompt_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<i64>, TokenizerError> {
        if self.prompt.trim().is_empty() {
            return Ok(Vec::new());
        }
        let ids = tokenizer.encode(&self.prompt)?.ids;
        Ok(ids[1..ids.len() - 1].to_vec())
    }
}
