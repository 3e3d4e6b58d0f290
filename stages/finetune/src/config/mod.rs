//! A recipe: TOML in, validated settings out. Every key has a default but the model, the data and the output.
//!
//! Layers, origins, ranges and suggestions are those of `recaption_config`, which `recaption` shares: defaults < recipe <
//! environment (`RECAPTION_FINETUNE_SECTION__KEY`) < flags.

mod check;
mod sections;

use std::{path::Path, sync::OnceLock};

pub use recaption_config::ConfigError;
use recaption_config::{Description, Settings, section};
pub use sections::{
    AlbefSection, Compute, DataSection, Initialisation, ModelSection, ObjectiveKind, ObjectiveSection,
    OptimizerSection, RunSection, SaveAs,
};

use crate::{
    albef_files::AlbefOverrides,
    device,
    objective::{
        Weights,
        albef::{AlbefSettings, alpha_at},
    },
    optim::{AdamWSettings, Freeze, Schedule},
};

/// Number of epochs of ALBEF's pre-training.
const PAPER_EPOCHS: u64 = 30;

/// Values of a recipe's keys, layer by layer.
pub type Layers = recaption_config::Layers<Recipe>;

section! {
    /// A recipe of `recaption-finetune`.
    pub struct Recipe {
        /// The model that is trained.
        pub model: ModelSection = ModelSection::default(),
        /// The samples that it is trained on.
        pub data: DataSection = DataSection::default(),
        /// The losses. The defaults are those of CoCa's pre-training (Yu et al. 2022, section 4.1).
        pub objective: ObjectiveSection = ObjectiveSection::default(),
        /// The objective `albef`: contrast over queues, matching and masked words, with momentum distillation.
        pub albef: AlbefSection = AlbefSection::default(),
        /// AdamW and its learning rate. Betas are open_clip's for ViTs; warm-up and weight decay the CoCa paper's for fine-tuning.
        pub optimizer: OptimizerSection = OptimizerSection::default(),
        /// How the training is done.
        pub run: RunSection = RunSection::default(),
    }
}

impl Settings for Recipe {
    const ENVIRONMENT: &'static str = "RECAPTION_FINETUNE_";

    fn description() -> &'static Description {
        static DESCRIPTION: OnceLock<Description> = OnceLock::new();
        DESCRIPTION.get_or_init(Description::of::<Self>)
    }
}

/// The reference of all keys, as `docs/src/recipe-reference.md` holds it.
#[must_use]
pub fn reference() -> String {
    Recipe::description().reference("Recipe reference", Recipe::ENVIRONMENT, "recaption finetune --reference")
}

/// The error of a recipe that proved to be impossible while it was worked on.
#[must_use]
pub fn unusable(what: &str) -> ConfigError {
    ConfigError::new("the recipe", what)
}

impl Recipe {
    /// Reads the layers of a recipe: the file, the environment, then `changes`, each `section.key=value`, and `out`.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown key, a value out of its range.
    pub fn layers(path: &Path, changes: &[String], out: Option<&Path>) -> Result<Layers, ConfigError> {
        let mut layers = Layers::default();
        layers.add_file(path)?;
        layers.add_process_environment()?;
        changes.iter().try_for_each(|change| layers.add_assignment(change))?;
        if let Some(out) = out {
            layers.set("run.out", out.display().to_string(), "--out")?;
        }
        Ok(layers)
    }

    /// Validates what was set. Device and precision are no longer `auto` then. Relative paths are the current folder's.
    ///
    /// # Errors
    /// A key that is missing, keys that contradict each other.
    pub fn build(layers: &Layers) -> Result<Self, ConfigError> {
        let mut recipe: Self = layers.extract()?;
        recipe.check(layers)?;
        if recipe.run.device == device::AUTO {
            recipe.run.device = device::automatic().to_owned();
        }
        if recipe.run.precision == Compute::Auto {
            recipe.run.precision =
                if recipe.run.device == device::CPU { Compute::Fp32 } else { Compute::Bf16 };
        }
        Ok(recipe)
    }

    /// Parts that are not trained.
    ///
    /// # Errors
    /// An unknown part.
    pub fn freeze(&self) -> Result<Vec<Freeze>, String> {
        let each = self.model.freeze.iter().map(|f| f.parse().map_err(|e| format!("model.freeze: {e}")));
        each.collect()
    }

    /// Model whose image tower an ALBEF begins with, if there is one.
    #[must_use]
    pub fn image_encoder(&self) -> Option<&Path> {
        let dir = self.model.image_encoder.as_path();
        (!dir.as_os_str().is_empty()).then_some(dir)
    }

    /// Weights of the losses.
    #[must_use]
    pub fn weights(&self) -> Weights {
        let ObjectiveSection { contrastive, caption, label_smoothing, .. } = self.objective;
        Weights { contrastive, caption, label_smoothing }
    }

    /// Settings of an ALBEF that the recipe decides.
    #[must_use]
    pub fn albef_overrides(&self) -> AlbefOverrides {
        let a = &self.albef;
        AlbefOverrides {
            queue_size: a.queue_size,
            momentum: a.momentum,
            alpha: a.alpha,
            mlm_probability: a.mlm_probability,
            max_text_tokens: a.max_tokens,
            temperature: a.temperature,
        }
    }

    /// Settings of the objective `albef` in a step counted from 0.
    #[must_use]
    pub fn albef_settings(&self, step: u64) -> AlbefSettings {
        let a = &self.albef;
        let warmup = a.alpha_steps.unwrap_or(self.optimizer.steps / PAPER_EPOCHS);
        AlbefSettings {
            part: self.run.part(),
            momentum: a.momentum,
            alpha: alpha_at(a.alpha, step, warmup),
            contrastive_weight: a.contrastive_weight,
            mask_probability: a.mlm_probability,
            seed: self.run.seed,
            step,
        }
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
        for url in recipe.data.train.iter_mut().chain(recipe.data.validation.iter_mut()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_reference_is_the_generated_one() {
        let committed = include_str!("../../../../docs/src/recipe-reference.md");
        assert!(
            committed == reference(),
            "run: recaption finetune --reference > docs/src/recipe-reference.md"
        );
    }

    #[test]
    fn automatic_device_and_precision_are_resolved() {
        let mut layers = Layers::default();
        let text = "[model]\ncheckpoint = 'm'\n[data]\ntrain = 'photos'\n[optimizer]\nlr = 1e-5\nsteps = 10\n\
                    [run]\nout = 'out'\nbatch_size = 8\nprecision = 'auto'\n";
        layers.add_toml(text, "recipe.toml").expect("a recipe");
        let recipe = Recipe::build(&layers).expect("a recipe");
        assert_eq!(*recipe.data.train, ["photos"]);
        let precision = if recipe.run.device == "cpu" { Compute::Fp32 } else { Compute::Bf16 };
        assert_eq!(recipe.run.precision, precision);
        assert_ne!(recipe.run.device, "auto");
    }

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
