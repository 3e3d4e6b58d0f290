//! Which captions a golden holds, and how their scores are computed.

use std::path::Path;

use super::{bounds::Bounds, golden::Golden};
use crate::{
    caption::GeneratedTokens,
    model::{GenerationRules, ModelFolder},
    runtime::{Encoded, SessionOptions},
};

/// How a tensor of captions was generated.
pub(super) struct Generation {
    /// Name of the ids, `[N, L]`, or `[N, beams, L]` with `all_beams`.
    pub(super) ids: &'static str,
    /// Name of the score, one per caption: of greedy captions the log-probability, of beams that divided by the number of tokens.
    pub(super) score: Option<&'static str>,
    /// Name of the texts in the JSON file.
    pub(super) text: Option<&'static str>,
    /// Whether by beam search; else greedily.
    pub(super) has_beams: bool,
    /// Whether all beams are held, and not the best one alone.
    pub(super) all_beams: bool,
    /// Whether the golden's minimal length holds.
    pub(super) has_min_length: bool,
    /// Whether captions begin with the golden's prompt.
    pub(super) has_prompt: bool,
    /// Whose rules beams follow.
    pub(super) rules: GenerationRules,
}

const GREEDY: Generation = Generation {
    ids: "greedy",
    score: Some("greedy_logprob"),
    text: Some("greedy_text"),
    has_beams: false,
    all_beams: false,
    has_min_length: false,
    has_prompt: false,
    rules: GenerationRules::Transformers,
};
const BEAM: Generation = Generation {
    ids: "beam",
    score: Some("beam_score"),
    text: Some("beam_text"),
    has_beams: true,
    has_min_length: true,
    ..GREEDY
};
/// All captions that a golden may hold.
pub(super) const GENERATIONS: [Generation; 7] = [
    GREEDY,
    Generation { ids: "greedy_min", score: None, text: None, has_min_length: true, ..GREEDY },
    BEAM,
    Generation { ids: "beams_all", score: Some("beams_all_score"), text: None, all_beams: true, ..BEAM },
    Generation {
        ids: "beams_all_448",
        score: Some("beams_all_448_score"),
        text: None,
        all_beams: true,
        rules: GenerationRules::Transformers4,
        ..BEAM
    },
    Generation {
        ids: "prompt_greedy",
        score: None,
        text: Some("prompt_greedy_text"),
        has_prompt: true,
        ..GREEDY
    },
    Generation { ids: "prompt_beam", score: Some("prompt_beam_score"), text: None, has_prompt: true, ..BEAM },
];

/// A model's captions and a golden's.
pub(super) struct Captions<'a> {
    /// The golden's file, for messages.
    pub(super) path: &'a Path,
    /// The model that is verified.
    pub(super) model: &'a ModelFolder,
    /// How its sessions run.
    pub(super) options: &'a SessionOptions,
    /// The reference.
    pub(super) golden: &'a Golden<'a>,
    /// The golden's images, encoded.
    pub(super) encoded: &'a Encoded,
    /// Bounds on differences.
    pub(super) bounds: &'a Bounds,
}

impl Captions<'_> {
    /// Reads the golden's scores, one per caption.
    pub(super) fn wanted_scores(&self, generation: &Generation, name: &str) -> Result<Vec<f32>, String> {
        let (count, beams) = (Some(self.golden.count), Some(self.golden.settings.num_beams));
        let shape: &[Option<usize>] = if generation.all_beams { &[count, beams] } else { &[count] };
        Ok(self.golden.file.floats(name, shape)?.1)
    }

    /// Returns the captions' scores, and the bound on their differences.
    pub(super) fn scores(&self, generation: &Generation, captions: &[GeneratedTokens]) -> (Vec<f32>, f32) {
        if !generation.has_beams {
            return (captions.iter().map(|caption| caption.logprob).collect(), self.bounds.log_probability);
        }
        let penalty = self.golden.settings.length_penalty;
        let score = |c: &GeneratedTokens| c.logprob / (c.ids.len().max(1) as f32).powf(penalty);
        (captions.iter().map(score).collect(), self.bounds.beam_score)
    }
}
