//! [`Training`]: everything that a step works on, and the operations of the training loop.

use std::path::PathBuf;

use anyhow::{Context, bail};
use burn::tensor::{Device, Tensor};
use recaption_image::DecodeOptions;

use super::{
    learner::{Learner, Source},
    metrics::Metrics,
    metrics_line::{MetricsLine, TrainLine, ValidationLine},
    state::{self, TrainingProgress},
};
use crate::{
    batch::Batch,
    config::{Recipe, unusable},
    data::LoaderSettings,
    optim::{AdamW, average, clip},
};

/// Folder of the best model so far, below the run's.
pub(super) const BEST: &str = "best";
/// Largest number of keys that an error names; a batch may have thousands.
const MAX_KEYS_IN_ERROR: usize = 16;

/// The state of a run: model, optimizer, position in the data, and where numbers go.
pub(super) struct Training<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) device: Device,
    /// The model that training began with.
    pub(super) source: Source,
    pub(super) model: Learner,
    pub(super) optimizer: AdamW,
    /// Moving average of the parameters, if one is kept.
    pub(super) average: Option<Vec<Tensor<1>>>,
    pub(super) progress: TrainingProgress,
    /// Held-out batches; may be empty.
    pub(super) validation: Vec<Batch>,
    pub(super) metrics: Metrics,
}

impl Training<'_> {
    /// Returns the loader's settings.
    pub(super) fn loader_settings(&self) -> LoaderSettings {
        LoaderSettings {
            batch_size: self.recipe.run.batch_size,
            window: self.recipe.data.shuffle_buffer,
            group_similar: self.recipe.data.group_similar,
            seed: self.recipe.run.seed,
            preprocess: self.model.preprocess(),
            decode: DecodeOptions::default(),
            crop: self.recipe.data.crop,
            cache_bytes: self.recipe.data.cache_bytes,
        }
    }

    /// Takes one step of the optimizer.
    ///
    /// # Errors
    /// Fails when no trained parameter is in the loss, and when loss or gradient are not finite.
    pub(super) fn step(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let recipe = self.recipe;
        let step = self.model.gradients(recipe, batch, self.progress.step, &self.device);
        if step.gradients.iter().all(Option::is_none) {
            bail!(unusable("no trained parameter is in the loss: see `model.freeze` and [objective]"));
        }
        let limit = Some(recipe.optimizer.clip_norm).filter(|limit| *limit > 0.0);
        let (norm, factor) = clip(&step.gradients, limit);
        let matching = step.matching.unwrap_or(0.0);
        if !(step.contrastive + step.caption + matching + norm).is_finite() {
            let mut what = format!(
                "contrastive loss {}, caption loss {}, gradient norm {norm}",
                step.contrastive, step.caption
            );
            if step.matching.is_some() {
                what.push_str(&format!(", matching loss {matching}"));
            }
            bail!(non_finite(self.progress.step + 1, &what, batch));
        }
        let lr = recipe.schedule().at(self.progress.step);
        let values = self.optimizer.step(self.model.parameters().values(), step.gradients, lr, factor);
        self.model.replace(values);
        if let Some(old) = self.average.take() {
            let new = self.model.parameters().values();
            self.average = Some(average(old, new, recipe.optimizer.ema_decay));
        }
        self.progress.step += 1;
        self.metrics.set_step(self.progress.step);
        let log = &mut self.progress.log;
        log.steps += 1;
        log.contrastive += step.contrastive;
        log.caption += step.caption;
        log.matching = step.matching.map(|loss| loss + log.matching.unwrap_or(0.0));
        log.norm += norm;
        Ok(())
    }

    /// Writes the means over the steps since the last line.
    ///
    /// # Errors
    /// Fails when a file cannot be written.
    pub(super) fn log(&mut self) -> anyhow::Result<()> {
        let sums = std::mem::take(&mut self.progress.log);
        let n = sums.steps.max(1) as f64;
        let line = TrainLine {
            step: self.progress.step,
            contrastive_loss: sums.contrastive / n,
            caption_loss: sums.caption / n,
            matching_loss: sums.matching.map(|sum| sum / n),
            gradient_norm: sums.norm / n,
            lr: self.recipe.schedule().at(self.progress.step - 1),
            inverse_temperature: self.model.inverse_temperature(),
            epoch: self.progress.position.epoch,
            samples_per_second: n * self.recipe.run.batch_size as f64 / sums.seconds,
            data: self.progress.counts.clone(),
        };
        Ok(self.metrics.add(&MetricsLine::Train(line))?)
    }

    /// Returns the model that is validated and saved: the moving average, if one is kept.
    pub(super) fn model_to_save(&self) -> Learner {
        self.model.evaluated(self.average.as_ref())
    }

    /// Validates, and keeps the model if it is the best so far; returns whether the run is out of patience.
    ///
    /// # Errors
    /// Fails when the loss is not finite or a file cannot be written.
    pub(super) fn validate(&mut self, batch: &Batch) -> anyhow::Result<bool> {
        if self.validation.is_empty() {
            return Ok(false);
        }
        let model = self.model_to_save();
        let found = model.validate(self.recipe, &self.validation, &self.device.clone().inner());
        if !found.loss().is_finite() {
            let what = format!(
                "validation: contrastive loss {}, caption loss {}, matching loss {}",
                found.contrastive,
                found.caption,
                found.matching.unwrap_or(0.0)
            );
            bail!(non_finite(self.progress.step, &what, batch));
        }
        let is_best = self.progress.best.is_none_or(|(_, loss)| found.loss() < loss);
        if is_best {
            self.progress.best = Some((self.progress.step, found.loss()));
            self.progress.validations_since_best = 0;
            let values = model.parameters().to_host();
            self.source.write(self.recipe, values, &self.best_folder(self.progress.step), true)?;
        } else {
            self.progress.validations_since_best += 1;
        }
        self.metrics.add(&MetricsLine::Validation(ValidationLine {
            step: self.progress.step,
            contrastive_loss: found.contrastive,
            caption_loss: found.caption,
            matching_loss: found.matching,
            exact: found.exact,
            samples: found.samples,
            best: is_best,
        }))?;
        Ok(self.is_out_of_patience())
    }

    /// Returns whether too many validations passed without a better one.
    pub(super) fn is_out_of_patience(&self) -> bool {
        let patience = self.recipe.run.patience;
        patience > 0 && self.progress.validations_since_best >= patience
    }

    /// Returns the folder that holds the model of `step`, in f32, while it is the best.
    pub(super) fn best_folder(&self, step: u64) -> PathBuf {
        self.recipe.run.out.join(BEST).join(format!("step-{step:08}"))
    }

    /// Checks that the weights are finite: others must become neither a checkpoint nor the best model.
    ///
    /// # Errors
    /// Fails when a weight is not finite.
    pub(super) fn check_weights(&self, batch: &Batch) -> anyhow::Result<()> {
        let (norm, _) =
            clip(&self.model.parameters().values().iter().cloned().map(Some).collect::<Vec<_>>(), None);
        anyhow::ensure!(norm.is_finite(), non_finite(self.progress.step, "the weights", batch));
        Ok(())
    }

    /// Writes a checkpoint, then deletes older best models.
    ///
    /// # Errors
    /// Fails when the checkpoint cannot be written; the previous one stays.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        state::save(
            &self.recipe.run.out,
            self.model.parameters().list(),
            &self.progress,
            self.model.parameters().values(),
            &self.optimizer.state,
            self.average.as_deref(),
        )
        .with_context(|| {
            let step = self.progress.step;
            format!("step {step}: no checkpoint was written; the previous one stays, and the same command continues from it")
        })?;
        // Only now does no checkpoint refer to an older best model.
        let kept = self.progress.best.map(|(step, _)| self.best_folder(step));
        for entry in std::fs::read_dir(self.recipe.run.out.join(BEST)).into_iter().flatten().flatten() {
            if Some(entry.path()) != kept {
                // One that cannot be deleted wastes space only.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }
}

/// Describes a value of step `step` that is not finite, and what to do.
fn non_finite(step: u64, what: &str, batch: &Batch) -> String {
    let keys: Vec<&str> = batch.keys.iter().take(MAX_KEYS_IN_ERROR).map(String::as_str).collect();
    let rest = batch.keys.len().saturating_sub(MAX_KEYS_IN_ERROR);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!(
        "step {step}: {what}: not a number. Keys of the batch: {}{more}. The last checkpoint is unchanged. Check these images and \
         captions, or begin another run with a lower `optimizer.lr` or an `optimizer.clip_norm`, from the newest folder below `best/` \
         as `model.checkpoint` if there is one",
        keys.join(", ")
    )
}
