//! A recipe: TOML in, validated settings out. Every key has a default but the model, the data and the output.

mod sections;

use std::path::Path;

pub use sections::{
    Compute, DataSection, Initialisation, ModelSection, ObjectiveSection, OptimizerSection, RunSection,
    SaveAs,
};
use serde::{Deserialize, Serialize};

use crate::{
    objective::Weights,
    optim::{AdamWSettings, Freeze, Schedule},
};

/// A recipe as it is written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is trained.
    pub model: ModelSection,
    /// On what.
    pub data: DataSection,
    /// Towards what.
    #[serde(default)]
    pub objective: ObjectiveSection,
    /// By which steps.
    pub optimizer: OptimizerSection,
    /// How the run goes.
    pub run: RunSection,
}

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {what}")]
pub struct RecipeError {
    /// The file, or the flag.
    pub origin: String,
    /// What is wrong.
    pub what: String,
}

impl RecipeError {
    /// Of a recipe that proved to be impossible while it was worked on.
    #[must_use]
    pub fn of(what: &str) -> Self {
        Self { origin: "the recipe".into(), what: what.into() }
    }
}

impl Recipe {
    /// Reads a recipe; each of `changes` is `section.key=value` and wins. Relative paths are the current folder's.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown key, a value out of its range.
    pub fn read(path: &Path, changes: &[String]) -> Result<Self, RecipeError> {
        let origin = path.display().to_string();
        let error = |what: String| RecipeError { origin: origin.clone(), what };
        let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string()))?;
        for change in changes {
            set(&mut table, change)
                .map_err(|what| RecipeError { origin: format!("--set {change}"), what })?;
        }
        let recipe: Self = table.try_into().map_err(|e: toml::de::Error| error(e.to_string()))?;
        recipe.check().map_err(error)?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        let (o, run) = (&self.optimizer, &self.run);
        let positive = |name: &str, ok: bool, value: f64| match ok {
            true => Ok(()),
            false => Err(format!("`{name}` = {value} is out of its range")),
        };
        positive("optimizer.lr", o.lr > 0.0 && o.lr.is_finite(), o.lr)?;
        positive("optimizer.steps", o.steps > 0, o.steps as f64)?;
        positive("optimizer.final_ratio", (0.0..=1.0).contains(&o.final_ratio), o.final_ratio)?;
        for beta in o.betas {
            positive("optimizer.betas", (0.0..1.0).contains(&beta), beta)?;
        }
        positive("optimizer.epsilon", o.epsilon > 0.0 && o.epsilon.is_finite(), o.epsilon)?;
        positive(
            "optimizer.weight_decay",
            o.weight_decay >= 0.0 && o.weight_decay.is_finite(),
            o.weight_decay,
        )?;
        positive("optimizer.clip_norm", o.clip_norm >= 0.0 && o.clip_norm.is_finite(), o.clip_norm)?;
        positive("optimizer.layer_decay", o.layer_decay > 0.0 && o.layer_decay <= 1.0, o.layer_decay)?;
        positive("optimizer.ema_decay", (0.0..1.0).contains(&o.ema_decay), o.ema_decay)?;
        let w = &self.objective;
        positive("objective.contrastive", w.contrastive >= 0.0 && w.contrastive.is_finite(), w.contrastive)?;
        positive("objective.caption", w.caption >= 0.0 && w.caption.is_finite(), w.caption)?;
        positive("objective.label_smoothing", (0.0..1.0).contains(&w.label_smoothing), w.label_smoothing)?;
        if w.contrastive == 0.0 && w.caption == 0.0 {
            return Err("both weights of [objective] are 0: nothing would be learnt".into());
        }
        positive("run.batch_size", run.batch_size > 0, run.batch_size as f64)?;
        positive("run.micro_batch", run.micro_batch != Some(0), 0.0)?;
        positive("run.checkpoint_every", run.checkpoint_every > 0, 0.0)?;
        positive("run.validate_every", run.validate_every > 0, 0.0)?;
        positive("run.log_every", run.log_every > 0, 0.0)?;
        positive("data.shuffle_buffer", self.data.shuffle_buffer > 0, 0.0)?;
        positive("data.validation_samples", self.data.validation_samples > 0, 0.0)?;
        if run.out.to_string_lossy().contains("://") {
            return Err(format!(
                "`run.out` = {}: a folder of this machine is needed; copy it afterwards",
                run.out.display()
            ));
        }
        if self.data.train.is_empty() {
            return Err("`data.train` is empty: name at least one shard".into());
        }
        if run.patience > 0 && self.data.validation.is_empty() {
            return Err("`run.patience` needs `data.validation`: without it nothing can be judged".into());
        }
        if w.contrastive > 0.0 && run.batch_size < 2 {
            return Err("`objective.contrastive` needs a `run.batch_size` of at least 2".into());
        }
        if let Some(crop) = &self.data.crop
            && !crop.is_valid()
        {
            return Err(format!("`data.crop`: {:?} and {:?} are no ranges", crop.scale, crop.ratio));
        }
        self.freeze().map(drop)
    }

    /// Parts that do not learn.
    ///
    /// # Errors
    /// An unknown part.
    pub fn freeze(&self) -> Result<Vec<Freeze>, String> {
        let each = self.model.freeze.iter().map(|f| f.parse().map_err(|e| format!("model.freeze: {e}")));
        each.collect()
    }

    /// Weights of the losses.
    #[must_use]
    pub fn weights(&self) -> Weights {
        let ObjectiveSection { contrastive, caption, label_smoothing } = self.objective;
        Weights { contrastive, caption, label_smoothing }
    }

    /// Learning rate by step.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let o = &self.optimizer;
        Schedule { peak: o.lr, warmup_steps: o.warmup_steps, steps: o.steps, final_ratio: o.final_ratio }
    }

    /// Constants of AdamW.
    #[must_use]
    pub fn adamw(&self) -> AdamWSettings {
        let o = &self.optimizer;
        AdamWSettings {
            beta1: o.betas[0],
            beta2: o.betas[1],
            epsilon: o.epsilon,
            weight_decay: o.weight_decay,
        }
    }

    /// The same without secrets: user info and queries of URLs.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut recipe = self.clone();
        for url in recipe.data.train.iter_mut().chain(&mut recipe.data.validation) {
            *url = recaption_schemas::redact_url(url);
        }
        recipe
    }

    /// What a resumed run must have in common with the one that left the checkpoint: everything that changes weights.
    #[must_use]
    pub fn fingerprint(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self.redacted()).unwrap_or_default();
        for key in ["out", "device", "checkpoint_every", "log_every"] {
            value["run"].as_object_mut().map(|run| run.remove(key));
        }
        value["data"].as_object_mut().map(|data| data.remove("cache_bytes"));
        value["model"].as_object_mut().map(|model| model.remove("save_as"));
        value
    }
}

/// Puts `section.key=value` into a table; the value is TOML, or else a text.
fn set(table: &mut toml::Table, change: &str) -> Result<(), String> {
    let (place, value) = change.split_once('=').ok_or("expected section.key=value")?;
    let (section, key) = place.trim().split_once('.').ok_or("expected section.key=value")?;
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let section_table = table.entry(section.to_owned()).or_insert_with(|| toml::Table::new().into());
    let section_table = section_table.as_table_mut().ok_or_else(|| format!("`{section}` is no section"))?;
    section_table.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is published with a model, and what lies in every checkpoint, holds no secret of a URL.
    #[test]
    fn secrets_of_urls_are_left_out() {
        let text = r#"
            [model]
            checkpoint = "start"
            [data]
            train = ["https://me:word@host.example/a.tar?X-Amz-Signature=abc", "s3://bucket/{000..009}.tar"]
            validation = ["https://host.example/b.tar?sig=def"]
            [optimizer]
            lr = 1e-5
            steps = 10
            [run]
            out = "out"
            batch_size = 8
        "#;
        let recipe: Recipe = toml::from_str(text).expect("a recipe");
        let card = toml::to_string(&recipe.redacted()).expect("TOML");
        for written in [card, recipe.fingerprint().to_string()] {
            for secret in ["word", "abc", "def", "sig=", "Signature"] {
                assert!(!written.contains(secret), "{secret} in {written}");
            }
            assert!(written.contains("https://host.example/a.tar"), "{written}");
            assert!(written.contains("s3://bucket/{000..009}.tar"), "{written}");
        }
        assert!(recipe.data.train[0].contains("Signature"), "what is read needs its secret");
    }
}
