//! What is wanted of a captioner, validated before anything is loaded.

use crate::runtime::RuntimeError;

/// Rows of one image decoded side by side, at most, when candidates are sampled. They share the image's cross keys and
/// values; more rows would idle while the last candidates end.
const SAMPLED_ROWS: usize = 8;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// The most probable token, always.
    Greedy,
    /// Drawn at random.
    Sample(SampleSettings),
    /// The best of several kept side by side.
    Beam(BeamSettings),
}

/// How a distribution is warped before a token is drawn, in Hugging Face's order: repetition penalty, minimum length,
/// temperature, top-k, top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleSettings {
    /// Positive logits of tokens already in the text are divided by it, negative ones multiplied; 1 is off.
    pub repetition_penalty: f32,
    /// Logits are divided by it, > 0.
    pub temperature: f32,
    /// Tokens below the k-th best are dropped, ties with it are kept; 0 is off.
    pub top_k: usize,
    /// Tokens are kept, best first, until their probabilities sum to this, (0, 1]; 1 is off.
    pub top_p: f32,
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 1.0, top_k: 0, top_p: 1.0 }
    }
}

/// When a beam search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When the best unfinished beam, at its present length, cannot beat the worst finished one. Hugging Face's default.
    Heuristic,
    /// As soon as there are as many finished ones as beams.
    Always,
    /// When no unfinished beam can win at any length.
    Never,
}

/// Beam search as Hugging Face's transformers does it, on log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeamSettings {
    /// Beams, at least 1.
    pub beams: usize,
    /// A finished beam's score is its log-probability / length^this.
    pub length_penalty: f32,
    /// When to end.
    pub early_stopping: EarlyStopping,
}

impl Default for BeamSettings {
    fn default() -> Self {
        Self { beams: 6, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic }
    }
}

/// How captions are decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionSettings {
    /// How tokens are chosen.
    pub strategy: Strategy,
    /// Captions per image: 1 for greedy, any number for sampling, at most the beams for beam search.
    pub candidates: usize,
    /// Ids that every caption begins with, without the start token; read by the model, not counted and not returned.
    pub prompt: Vec<i64>,
    /// Most generated tokens, end token included; open_clip's `seq_len - 1`.
    pub max_tokens: usize,
    /// Fewest tokens before the end token; open_clip's `min_seq_len - 1`.
    pub min_tokens: usize,
    /// Most images decoded together.
    pub max_slots: usize,
    /// Most bytes that caches, cross keys and values and logits may hold; fewer slots are used when they do not fit.
    pub cache_bytes: u64,
}

impl CaptionSettings {
    /// Greedy captions, one per image.
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

    /// Rows that one image takes in the decoder. A function of the settings alone: rows of one image share a matrix
    /// product, so another number could change the last bit of a logit.
    #[must_use]
    pub fn rows_per_image(&self) -> usize {
        match self.strategy {
            Strategy::Greedy => 1,
            Strategy::Beam(beam) => beam.beams,
            Strategy::Sample(_) => self.candidates.div_ceil(self.candidates.div_ceil(SAMPLED_ROWS)),
        }
    }

    /// Positions that a row may read: start token, prompt, and every generated token but the last.
    #[must_use]
    pub fn cache_length(&self) -> usize {
        self.prompt.len() + self.max_tokens
    }

    /// # Errors
    /// Names the first setting that makes no sense.
    pub fn validate(&self) -> Result<(), RuntimeError> {
        let wrong = |what: String| Err(RuntimeError::Input(what));
        if self.max_slots == 0 || self.candidates == 0 {
            return wrong("caption settings need at least one slot and one candidate".into());
        }
        if self.min_tokens >= self.max_tokens {
            return wrong(format!(
                "min_tokens {} leaves no room for the end token within max_tokens {}",
                self.min_tokens, self.max_tokens
            ));
        }
        match self.strategy {
            Strategy::Greedy if self.candidates > 1 => wrong(format!(
                "greedy decoding gives one caption, {} candidates were asked for: use sample or beam",
                self.candidates
            )),
            Strategy::Beam(b) if self.candidates > b.beams => wrong(format!(
                "{} candidates were asked for, beam search with {} beams gives at most that many",
                self.candidates, b.beams
            )),
            Strategy::Beam(b) if !b.length_penalty.is_finite() => {
                wrong("length_penalty is not a number".into())
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
    fn candidates_are_spread_evenly_over_few_rows() {
        let rows = |n| sampled(n).rows_per_image();
        assert_eq!([1, 2, 8, 9, 12, 16, 17, 256].map(rows), [1, 2, 8, 5, 6, 8, 6, 8]);
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let refused = |change: fn(&mut CaptionSettings)| {
            let mut settings = sampled(3);
            settings.validate().expect("valid");
            change(&mut settings);
            settings.validate().expect_err("invalid").to_string()
        };
        assert!(refused(|s| s.min_tokens = 20).contains("min_tokens 20"));
        assert!(refused(|s| s.strategy = Strategy::Greedy).contains("3 candidates"));
        let two_beams = |s: &mut CaptionSettings| {
            s.strategy = Strategy::Beam(BeamSettings { beams: 2, ..BeamSettings::default() });
        };
        assert!(refused(two_beams).contains("2 beams"));
        let cold = |s: &mut CaptionSettings| {
            s.strategy = Strategy::Sample(SampleSettings { temperature: 0.0, ..SampleSettings::default() });
        };
        assert!(refused(cold).contains("temperature > 0"));
        assert!(refused(|s| s.candidates = 0).contains("one candidate"));
    }
}
