//! A training run from the recipe to the model folder. Read from top to bottom: [`train`] is the whole story.
//!
//! ```text
//! recipe -> model, data, optimizer (or the newest checkpoint) -> steps -> open_clip directory -> ONNX -> verified -> card
//! ```

mod card;
mod finish;
mod metrics;
mod open;
mod state;
mod stop;
mod validate;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, bail};
use burn::tensor::{Device, Tensor};
pub use finish::{Finished, MODEL, ONNX, write_golden};
pub use metrics::{Line, TrainLine, ValidationLine, read as read_metrics};
use recaption_image::DecodeOptions;
use recaption_onnx::checkpoint::Dtype;
pub use state::{Progress, StateError};
pub use stop::Stop;
pub use validate::{Validation, validate};

use crate::{
    batch::Batch,
    config::{Recipe, unusable},
    data::{Loader, LoaderSettings},
    model::Coca,
    objective::gradients,
    open_clip::OpenClip,
    optim::{AdamW, average, clip},
};

/// Largest logarithm of the inverse temperature: 100, as CLIP and open_clip have it.
const MAX_LOGIT_SCALE: f32 = 4.605_170_2;
/// Folder of the best model so far.
const BEST: &str = "best";
/// Keys that an error names; a batch may have thousands.
const KEYS_TOLD: usize = 16;

/// How a run may go about what it finds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Begin anew where another recipe has left checkpoints.
    pub overwrite: bool,
    /// Bars instead of log lines.
    pub terminal: bool,
}

/// The recipe differs from the one that left the checkpoints.
#[derive(Debug, thiserror::Error)]
#[error(
    "{out}: its checkpoints were made with other settings: {keys}; choose another `run.out`, or give --overwrite to begin anew"
)]
pub struct Mismatch {
    /// The run's folder.
    pub out: String,
    /// Keys that differ, with both values.
    pub keys: String,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// Trained and exported.
    Done(Box<Finished>),
    /// Stopped by a signal behind this step; the same command goes on.
    Stopped(u64),
}

/// Everything that a step works on.
struct Run<'a> {
    recipe: &'a Recipe,
    device: Device,
    source: OpenClip,
    model: Coca,
    optimizer: AdamW,
    average: Option<Vec<Tensor<1>>>,
    progress: Progress,
    validation: Vec<Batch>,
    metrics: metrics::Metrics,
}

/// Trains by the recipe, or goes on where its checkpoints end.
///
/// # Errors
/// Bad settings, unusable data, a loss that is no number, a full disk: see the message. What the checkpoints hold stays.
pub async fn train(recipe: &Recipe, options: Options, stop: &Stop) -> anyhow::Result<Ended> {
    if options.overwrite {
        open::begin_anew(&recipe.run.out)?;
    }
    let (mut run, inputs, tokenizer) = Run::open(recipe, options).await?;
    if run.progress.step > 0 {
        tracing::info!(step = run.progress.step, "going on from a checkpoint");
    }
    let loader = Loader::start(inputs, tokenizer, run.loader_settings(), run.progress.position)
        .context("cannot start the loader")?;
    // A run that stopped early stays stopped when it is asked again.
    while run.progress.step < recipe.optimizer.steps && !run.waited_enough() {
        let begun = Instant::now();
        let loaded = loader.next()?;
        run.step(&loaded.batch)?;
        run.progress.position = loaded.position;
        run.progress.counts.add(&loaded.counts);
        let seconds = begun.elapsed().as_secs_f64();
        run.progress.log.seconds += seconds;
        run.progress.seconds += seconds;
        let step = run.progress.step;
        let last = step == recipe.optimizer.steps;
        if last || step.is_multiple_of(recipe.run.log_every) {
            run.log()?;
        }
        let judging = last || step.is_multiple_of(recipe.run.validate_every);
        let stopping = stop.requested();
        let saving = last || stopping || step.is_multiple_of(recipe.run.checkpoint_every);
        if judging || saving {
            run.check_values(&loaded.batch)?;
        }
        let enough = judging && run.judge(&loaded.batch)?;
        if saving || enough {
            run.save()?;
        }
        if enough {
            tracing::info!(
                step,
                "no better validation for {} times: the run stops early",
                run.progress.worse
            );
            break;
        }
        if stopping && !last {
            return Ok(Ended::Stopped(step));
        }
    }
    drop(loader);
    Ok(Ended::Done(Box::new(finish::finish(run)?)))
}

impl<'a> Run<'a> {
    fn loader_settings(&self) -> LoaderSettings {
        LoaderSettings {
            batch_size: self.recipe.run.batch_size,
            window: self.recipe.data.shuffle_buffer,
            seed: self.recipe.run.seed,
            preprocess: self.model.config.preprocess,
            decode: DecodeOptions::default(),
            crop: self.recipe.data.crop,
            cache_bytes: self.recipe.data.cache_bytes,
        }
    }

    /// One step of the optimizer.
    fn step(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let recipe = self.recipe;
        let step = gradients(&self.model, batch, recipe.run.part(), &recipe.weights(), &self.device);
        if step.gradients.iter().all(Option::is_none) {
            bail!(unusable("nothing that learns has a part in the loss: see `model.freeze` and [objective]"));
        }
        let limit = Some(recipe.optimizer.clip_norm).filter(|limit| *limit > 0.0);
        let (norm, factor) = clip(&step.gradients, limit);
        if !(step.contrastive + step.caption + norm).is_finite() {
            let what = format!(
                "contrastive loss {}, caption loss {}, gradient norm {norm}",
                step.contrastive, step.caption
            );
            bail!(not_a_number(self.progress.step + 1, &what, batch));
        }
        let lr = recipe.schedule().at(self.progress.step);
        let values = self.optimizer.step(self.model.parameters.values(), step.gradients, lr, factor);
        self.model.parameters.replace(values);
        self.model.parameters.clamp("logit_scale", 0.0, MAX_LOGIT_SCALE);
        if let Some(old) = self.average.take() {
            let new = self.model.parameters.values();
            self.average = Some(average(old, new, recipe.optimizer.ema_decay));
        }
        self.progress.step += 1;
        self.metrics.step(self.progress.step);
        let log = &mut self.progress.log;
        log.steps += 1;
        log.contrastive += step.contrastive;
        log.caption += step.caption;
        log.norm += norm;
        Ok(())
    }

    fn log(&mut self) -> anyhow::Result<()> {
        let window = std::mem::take(&mut self.progress.log);
        let n = window.steps.max(1) as f64;
        let scale = crate::model::host(&self.model.parameters.vector("logit_scale"));
        let line = TrainLine {
            step: self.progress.step,
            contrastive_loss: window.contrastive / n,
            caption_loss: window.caption / n,
            gradient_norm: window.norm / n,
            lr: self.recipe.schedule().at(self.progress.step - 1),
            inverse_temperature: scale.first().map_or(f64::NAN, |s| f64::from(s.exp())),
            epoch: self.progress.position.epoch,
            samples_per_second: n * self.recipe.run.batch_size as f64 / window.seconds,
            data: self.progress.counts.clone(),
        };
        Ok(self.metrics.add(&Line::Train(line))?)
    }

    /// The model that is judged and saved: the average, where one is kept.
    fn judged(&self) -> Coca {
        let mut model = self.model.without_autodiff();
        if let Some(average) = &self.average {
            model.parameters.replace(average.clone());
        }
        model
    }

    /// Validates; keeps the best. Whether the run has waited long enough for a better one.
    fn judge(&mut self, batch: &Batch) -> anyhow::Result<bool> {
        if self.validation.is_empty() {
            return Ok(false);
        }
        let model = self.judged();
        let (weights, part) = (self.recipe.weights(), self.recipe.run.part());
        let found = validate(&model, &self.validation, part, &weights, &self.device.clone().inner());
        if !found.loss().is_finite() {
            let what =
                format!("validation: contrastive loss {}, caption loss {}", found.contrastive, found.caption);
            bail!(not_a_number(self.progress.step, &what, batch));
        }
        let best = self.progress.best.is_none_or(|(_, loss)| found.loss() < loss);
        if best {
            self.progress.best = Some((self.progress.step, found.loss()));
            self.progress.worse = 0;
            let mut best = self.source.with_values(model.parameters.to_host());
            best.save_as(Some(Dtype::F32));
            best.write(&self.best_folder(self.progress.step))?;
        } else {
            self.progress.worse += 1;
        }
        self.metrics.add(&Line::Validation(ValidationLine {
            step: self.progress.step,
            contrastive_loss: found.contrastive,
            caption_loss: found.caption,
            exact: found.exact,
            samples: found.samples,
            best,
        }))?;
        Ok(self.waited_enough())
    }

    /// Whether too many validations passed without a better one.
    fn waited_enough(&self) -> bool {
        let patience = self.recipe.run.patience;
        patience > 0 && self.progress.worse >= patience
    }

    /// Where the model of that step is kept, in single precision, while it is the best.
    fn best_folder(&self, step: u64) -> PathBuf {
        self.recipe.run.out.join(BEST).join(format!("step-{step:08}"))
    }

    /// Weights that are no numbers must become neither a checkpoint nor the best.
    fn check_values(&self, batch: &Batch) -> anyhow::Result<()> {
        let (size, _) =
            clip(&self.model.parameters.values().iter().cloned().map(Some).collect::<Vec<_>>(), None);
        anyhow::ensure!(size.is_finite(), not_a_number(self.progress.step, "the weights", batch));
        Ok(())
    }

    fn save(&self) -> anyhow::Result<()> {
        state::save(
            &self.recipe.run.out,
            self.model.parameters.list(),
            &self.progress,
            self.model.parameters.values(),
            &self.optimizer.state,
            self.average.as_deref(),
        )
        .with_context(|| {
            format!("step {}: no checkpoint was written; the one before stays, and the same command goes on from it", self.progress.step)
        })?;
        // Only now is no checkpoint left that speaks of an older best.
        let kept = self.progress.best.map(|(step, _)| self.best_folder(step));
        for entry in std::fs::read_dir(self.recipe.run.out.join(BEST)).into_iter().flatten().flatten() {
            if Some(entry.path()) != kept {
                // One that stays is only a waste of room.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }
}

/// What a step says that must not go on.
fn not_a_number(step: u64, what: &str, batch: &Batch) -> String {
    let told: Vec<&str> = batch.keys.iter().take(KEYS_TOLD).map(String::as_str).collect();
    let rest = batch.keys.len().saturating_sub(KEYS_TOLD);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!(
        "step {step}: {what}: not a number. The batch's keys: {}{more}. The last checkpoint is untouched. Look at these images and \
         captions; or begin another run with a lower `optimizer.lr` or an `optimizer.clip_norm`, from the newest folder below `best/` as \
         `model.checkpoint` where there is one",
        told.join(", ")
    )
}
