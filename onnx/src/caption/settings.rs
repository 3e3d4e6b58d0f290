//! How captions are generated: settings, validated before a model is loaded.

use crate::runtime::RuntimeError;

/// Largest number of rows per image when candidates are sampled. Rows share the image's cross-attention keys and values;
/// more of them would idle while the last candidates are finished.
const SAMPLED_ROWS: usize = 8;

/// How tokens are selected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// Takes the most probable token at every position.
    Greedy,
    /// Samples tokens from the model's distribution.
    Sample(SampleSettings),
    /// Keeps several captions in parallel and returns the best.
    Beam(BeamSettings),
}

/// How a distribution is warped before a token is sampled, in the order of Hugging Face's transformers: repetition penalty,
/// minimum length, temperature, top-k, top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleSettings {
    /// Divides positive logits of tokens that are in the text already, and multiplies negative ones; > 0, 1 is off.
    pub repetition_penalty: f32,
    /// Divides all logits; > 0, 1 is off.
    pub temperature: f32,
    /// Number of best tokens that are kept, and ties with the last of them; 0 is off.
    pub top_k: usize,
    /// Probability mass of the tokens that are kept, best first; in (0, 1], 1 is off.
    pub top_p: f32,
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 1.0, top_k: 0, top_p: 1.0 }
    }
}

/// When a beam search stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// Stops when the best unfinished beam, at its present length, cannot beat the worst finished one. Hugging Face's
    /// default.
    Heuristic,
    /// Stops as soon as there are as many finished beams as `beams`.
    Always,
    /// Stops when no unfinished beam can win at any length.
    Never,
}

/// Beam search on log-probabilities, with the semantics of Hugging Face's transformers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSettings {
    /// Number of beams, at least 1.
    pub beams: usize,
    /// Exponent of the length that a finished beam's log-probability is divided by.
    pub length_penalty: f32,
    /// When the search stops.
    pub early_stopping: EarlyStopping,
}

impl Default for BeamSettings {
    fn default() -> Self {
        Self { beams: 6, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic }
    }
}

/// How captions are generated.
///
/// ```
/// use recaption_onnx::caption::{BeamSettings, CaptionSettings, Strategy};
///
/// let greedy = CaptionSettings::greedy(20, 1, 8);
/// assert_eq!(greedy.rows_per_image(), 1);
/// let beam = Strategy::Beam(BeamSettings { beams: 4, ..BeamSettings::default() });
/// let settings = CaptionSettings { strategy: beam, candidates: 2, ..greedy };
/// assert_eq!(settings.rows_per_image(), 4);
/// settings.validate()?;
/// # Ok::<(), recaption_onnx::runtime::RuntimeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionSettings {
    /// How tokens are selected.
    pub strategy: Strategy,
    /// Captions per image: 1 for greedy, any number for sampling, at most `beams` for beam search.
    pub candidates: usize,
    /// Ids that every caption starts with, without the start token; neither counted nor returned.
    pub prompt: Vec<i64>,
    /// Largest number of generated tokens, end token included; open_clip's `seq_len - 1`.
    pub max_tokens: usize,
    /// Smallest number of tokens before the end token; open_clip's `min_seq_len - 1`.
    pub min_tokens: usize,
    /// Largest number of images in flight.
    pub max_slots: usize,
    /// Bytes that caches, cross-attention keys and values and logits may hold; fewer images are in flight if they do not fit.
    pub cache_bytes: u64,
}

impl CaptionSettings {
    /// Returns settings for greedy captions, one per image, without a limit on memory.
    #[must_use]
    pub fn greedy(max_tokens: usize, min_tokens: usize, max_slots: usize) -> Self {
        Self {
            strategy: Strategy::Greedy,
            candidates: 1,
            prompt: Vec::new(),
            max_tokens,
            min_tokens,
            max_slots,
            cache_bytes: u64::MAX,
        }
    }

    /// Returns the number of decoder rows per image. It depends on the settings alone: rows of one image share a matrix
    /// product, so another number could change the last bit of a logit.
    #[must_use]
    pub fn rows_per_image(&self) -> usize {
        match self.strategy {
            Strategy::Greedy => 1,
            Strategy::Beam(beam) => beam.beams,
            Strategy::Sample(_) => self.candidates.div_ceil(self.candidates.div_ceil(SAMPLED_ROWS)),
        }
    }

    /// Returns the number of positions that a row may read: start token, prompt, and all generated tokens but the last.
    pub(crate) fn cache_length(&self) -> usize {
        self.prompt.len() + self.max_tokens
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`RuntimeError::Input`] with the first invalid setting.
    pub fn validate(&self) -> Result<(), RuntimeError> {
        let invalid = |what: String| Err(RuntimeError::Input(what));
        if self.max_slots == 0 || self.candidates == 0 {
            return invalid("caption settings need at least one slot and one candidate".into());
        }
        if self.min_tokens >= self.max_tokens {
            return invalid(format!(
                "min_tokens {} leaves no room for the end token within max_tokens {}",
                self.min_tokens, self.max_tokens
            ));
        }
        match self.strategy {
            Strategy::Greedy if self.candidates > 1 => invalid(format!(
                "greedy gives one caption, but candidates is {}: use sample or beam",
                self.candidates
            )),
            Strategy::Beam(b) if self.candidates > b.beams => invalid(format!(
                "candidates is {}, but beam search with {} beams gives at most that many",
                self.candidates, b.beams
            )),
            Strategy::Beam(b) if !b.length_penalty.is_finite() => {
                invalid("length_penalty is not a finite number".into())
            }
            Strategy::Sample(s) => s.validate(),
            _ => Ok(()),
        }
    }
}

impl SampleSettings {
    fn validate(&self) -> Result<(), RuntimeError> {
        let positive = |v: f32| v.is_finite() && v > 0.0;
        if positive(self.temperature)
            && positive(self.repetition_penalty)
            && positive(self.top_p)
            && self.top_p <= 1.0
        {
            return Ok(());
        }
        Err(RuntimeError::Input(format!(
            "sampling needs temperature > 0, repetition_penalty > 0 and 0 < top_p <= 1, got {self:?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(candidates: usize) -> CaptionSettings {
        let strategy = Strategy::Sample(SampleSettings::default());
        CaptionSettings { strategy, candidates, ..CaptionSettings::greedy(20, 1, 4) }
    }

    #[test]
    fn candidates_spread_evenly_over_rows() {
        let rows = |n| sampled(n).rows_per_image();
        assert_eq!([1, 2, 8, 9, 12, 16, 17, 256].map(rows), [1, 2, 8, 5, 6, 8, 6, 8]);
    }

    #[test]
    fn invalid_settings_are_named() {
        let error_of = |change: fn(&mut CaptionSettings)| {
            let mut settings = sampled(3);
            settings.validate().expect("valid");
            change(&mut settings);
            settings.validate().expect_err("invalid").to_string()
        };
        assert!(error_of(|s| s.min_tokens = 20).contains("min_tokens 20"));
        assert!(error_of(|s| s.strategy = Strategy::Greedy).contains("candidates is 3"));
        let two_beams = |s: &mut CaptionSettings| {
            s.strategy = Strategy::Beam(BeamSettings { beams: 2, ..BeamSettings::default() });
        };
        assert!(error_of(two_beams).contains("2 beams"));
        let cold = |s: &mut CaptionSettings| {
            s.strategy = Strategy::Sample(SampleSettings { temperature: 0.0, ..SampleSettings::default() });
        };
        assert!(error_of(cold).contains("temperature > 0"));
        assert!(error_of(|s| s.candidates = 0).contains("one candidate"));
    }
}
