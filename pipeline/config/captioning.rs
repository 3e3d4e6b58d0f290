//! The keys of `[caption]` that say how tokens are chosen.

use recaption_onnx::caption::{BeamSettings, EarlyStopping, SampleSettings, Strategy};

use super::layers::{ConfigError, Layers};

/// Keys that only one strategy looks at.
const KEYS_OF_STRATEGIES: [(&str, &[&str]); 2] = [
    ("sample", &["caption.temperature", "caption.top_k", "caption.top_p", "caption.repetition_penalty"]),
    ("beam", &["caption.beams", "caption.length_penalty", "caption.early_stopping"]),
];

/// How captions are to be decoded, apart from their length.
#[derive(Clone, Debug)]
pub struct Captioning {
    /// How tokens are chosen.
    pub strategy: Strategy,
    /// Captions per image.
    pub candidates: usize,
    /// What the model is given as the caption's beginning; empty for nothing.
    pub prompt: String,
    /// Whether captions begin with the prompt.
    pub keep_prompt: bool,
    /// Keys that were set but that the strategy does not look at.
    pub ignored: Vec<&'static str>,
}

impl Captioning {
    /// # Errors
    /// More candidates than the strategy gives.
    pub(super) fn build(layers: &Layers) -> Result<Self, ConfigError> {
        let strategy = strategy(layers);
        let candidates =
            layers.integer("caption.candidates").and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
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
            return Err(ConfigError::new(layers.origin("caption.candidates"), what));
        }
        Ok(Self {
            strategy,
            candidates,
            prompt: layers.text("caption.prompt").unwrap_or_default().trim().to_owned(),
            keep_prompt: layers.flag("caption.keep_prompt").unwrap_or(false),
            ignored: ignored(layers),
        })
    }

    /// The strategy's name in the configuration.
    #[must_use]
    pub fn strategy_name(&self) -> &'static str {
        match self.strategy {
            Strategy::Greedy => "greedy",
            Strategy::Sample(_) => "sample",
            Strategy::Beam(_) => "beam",
        }
    }

    /// The keys that change rows, with their values.
    pub fn put_row_keys(&self, seed: u64, mut put: impl FnMut(&str, String) -> Option<String>) {
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

fn strategy(layers: &Layers) -> Strategy {
    let size = |name: &str| layers.integer(name).and_then(|n| usize::try_from(n).ok());
    let real = |name: &str| layers.real(name).map(|n| n as f32);
    match layers.text("caption.strategy").as_deref() {
        Some("sample") => {
            let default = SampleSettings::default();
            Strategy::Sample(SampleSettings {
                repetition_penalty: real("caption.repetition_penalty").unwrap_or(default.repetition_penalty),
                temperature: real("caption.temperature").unwrap_or(default.temperature),
                top_k: size("caption.top_k").unwrap_or(default.top_k),
                top_p: real("caption.top_p").unwrap_or(default.top_p),
            })
        }
        Some("beam") => {
            let default = BeamSettings::default();
            let early_stopping = match layers.text("caption.early_stopping").as_deref() {
                Some("true") => EarlyStopping::Always,
                Some("never") => EarlyStopping::Never,
                _ => EarlyStopping::Heuristic,
            };
            Strategy::Beam(BeamSettings {
                beams: size("caption.beams").unwrap_or(default.beams),
                length_penalty: real("caption.length_penalty").unwrap_or(default.length_penalty),
                early_stopping,
            })
        }
        _ => Strategy::Greedy,
    }
}

fn early_stopping_name(rule: EarlyStopping) -> &'static str {
    match rule {
        EarlyStopping::Heuristic => "false",
        EarlyStopping::Always => "true",
        EarlyStopping::Never => "never",
    }
}

fn ignored(layers: &Layers) -> Vec<&'static str> {
    let strategy = layers.text("caption.strategy").unwrap_or_else(|| "greedy".into());
    let others = KEYS_OF_STRATEGIES.iter().filter(|(name, _)| *name != strategy).flat_map(|(_, keys)| *keys);
    others.copied().filter(|key| layers.is_set(key)).collect()
}
