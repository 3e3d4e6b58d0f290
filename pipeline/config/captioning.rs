//! How captions are generated: the keys of `[caption]` that make sense together.

use recaption_config::ConfigError;
use recaption_onnx::caption::{BeamSettings, EarlyStopping, SampleSettings, Strategy};

use super::{
    Layers,
    sections::{CaptionSection, StrategyName},
};

/// Keys that only one strategy reads.
const KEYS_OF_STRATEGIES: [(StrategyName, &[&str]); 2] = [
    (
        StrategyName::Sample,
        &["caption.temperature", "caption.top_k", "caption.top_p", "caption.repetition_penalty"],
    ),
    (StrategyName::Beam, &["caption.beams", "caption.length_penalty", "caption.early_stopping"]),
];

/// How captions are generated.
#[derive(Clone, Debug)]
pub struct CaptionConfig {
    /// How tokens are chosen.
    pub strategy: Strategy,
    /// Captions per image, at least 1.
    pub candidates: usize,
    /// Beginning of every caption that the model is given; empty for none.
    pub prompt: String,
    /// Whether captions begin with the prompt.
    pub keep_prompt: bool,
    /// Fewest tokens before the end token.
    pub min_tokens: usize,
    /// Most generated tokens, more than `min_tokens`; `None` is the context length less one.
    pub max_tokens: Option<usize>,
    /// Keys that were set but that the strategy does not read.
    pub ignored: Vec<&'static str>,
}

impl CaptionConfig {
    /// Validates the section.
    ///
    /// # Errors
    /// More candidates than the strategy gives, or no room between the fewest and the most tokens.
    pub(super) fn build(section: &CaptionSection, layers: &Layers) -> Result<Self, ConfigError> {
        let strategy = strategy(section);
        let candidates = section.candidates;
        let most = match strategy {
            Strategy::Greedy => Some((1, "greedy decoding gives one caption; use `sample` or `beam`")),
            Strategy::Beam(beam) => {
                Some((beam.beams, "beam search gives at most as many as `caption.beams`"))
            }
            Strategy::Sample(_) => None,
        };
        if let Some((most, why)) = most
            && candidates > most
        {
            let what = format!("`caption.candidates` = {candidates}: {why}");
            return Err(layers.error("caption.candidates", what));
        }
        if section.max_tokens.is_some_and(|max| section.min_tokens >= max) {
            let what = "`caption.max_tokens` must be larger than `caption.min_tokens`, since it counts the end token";
            return Err(layers.error("caption.max_tokens", what));
        }
        Ok(Self {
            strategy,
            candidates,
            prompt: section.prompt.trim().to_owned(),
            keep_prompt: section.keep_prompt,
            min_tokens: section.min_tokens,
            max_tokens: section.max_tokens,
            ignored: ignored(section.strategy, layers),
        })
    }

    /// The strategy's name in the configuration.
    #[must_use]
    pub fn strategy_name(&self) -> &'static str {
        match self.strategy {
            Strategy::Greedy => StrategyName::Greedy.as_str(),
            Strategy::Sample(_) => StrategyName::Sample.as_str(),
            Strategy::Beam(_) => StrategyName::Beam.as_str(),
        }
    }

    /// The keys that change rows, with their values; those of tokens aside, which depend on the model.
    pub(super) fn put_row_keys(&self, seed: u64, mut put: impl FnMut(&str, String) -> Option<String>) {
        put("caption.strategy", self.strategy_name().into());
        put("caption.candidates", self.candidates.to_string());
        match self.strategy {
            Strategy::Greedy => {}
            Strategy::Sample(sample) => {
                put("caption.temperature", sample.temperature.to_string());
                put("caption.top_k", sample.top_k.to_string());
                put("caption.top_p", sample.top_p.to_string());
                put("caption.repetition_penalty", sample.repetition_penalty.to_string());
                put("run.seed", seed.to_string());
            }
            Strategy::Beam(beam) => {
                put("caption.beams", beam.beams.to_string());
                put("caption.length_penalty", beam.length_penalty.to_string());
                put("caption.early_stopping", early_stopping_name(beam.early_stopping).into());
            }
        }
        if !self.prompt.is_empty() {
            put("caption.prompt", self.prompt.clone());
            put("caption.keep_prompt", self.keep_prompt.to_string());
        }
    }
}

fn strategy(section: &CaptionSection) -> Strategy {
    match section.strategy {
        StrategyName::Greedy => Strategy::Greedy,
        StrategyName::Sample => Strategy::Sample(SampleSettings {
            repetition_penalty: section.repetition_penalty as f32,
            temperature: section.temperature as f32,
            top_k: section.top_k,
            top_p: section.top_p as f32,
        }),
        StrategyName::Beam => Strategy::Beam(BeamSettings {
            beams: section.beams,
            length_penalty: section.length_penalty as f32,
            early_stopping: section.early_stopping.into(),
        }),
    }
}

fn early_stopping_name(rule: EarlyStopping) -> &'static str {
    match rule {
        EarlyStopping::Heuristic => "false",
        EarlyStopping::Always => "true",
        EarlyStopping::Never => "never",
    }
}

fn ignored(strategy: StrategyName, layers: &Layers) -> Vec<&'static str> {
    let others = KEYS_OF_STRATEGIES.iter().filter(|(name, _)| *name != strategy).flat_map(|(_, keys)| *keys);
    others.copied().filter(|key| layers.is_set(key)).collect()
}
