//! A training run from the recipe to the model folder. Read from top to bottom: [`train`] is the whole story.
//!
//! ```text
//! recipe -> model, data, optimizer (or the newest checkpoint) -> steps -> open_clip directory -> ONNX -> verified -> card
//! ```

mod card;
mod finish;
mod metrics;
mod state;
mod stop;
mod validate;

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use burn::tensor::{Device, Tensor};
pub use finish::{Finished, MODEL, ONNX, write_golden};
pub use metrics::{Line, TrainLine, ValidationLine, read as read_metrics};
use recaption_onnx::{model::SpecialIds, tokenizer::Tokenizer};
use recaption_stages::decode::DecodeOptions;
pub use state::{Progress, StateError};
pub use stop::Stop;
pub use validate::{Validation, validate};

use crate::{
    batch::Batch,
    config::{Compute, Initialisation, Recipe, SaveAs},
    data::{Inputs, Loader, LoaderSettings, load_all},
    device,
    model::{Coca, Parameters},
    objective::gradients,
    open_clip::OpenClip,
    optim::{AdamW, AdamWState, average, clip, groups},
};

/// Largest logarithm of the inverse temperature: 100, as CLIP and open_clip have it.
const MAX_LOGIT_SCALE: f32 = 4.605_170_2;
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

/// Sums since the last line of the log.
#[derive(Default)]
struct Window {
    steps: u64,
    contrastive: f64,
    caption: f64,
    norm: f64,
    seconds: f64,
}

/// Trains by the recipe, or goes on where its checkpoints end.
///
/// # Errors
/// Bad settings, unusable data, a loss that is no number, a full disk: see the message. What the checkpoints hold stays.
pub async fn train(recipe: &Recipe, options: Options, stop: &Stop) -> anyhow::Result<Ended> {
    let (mut run, inputs, tokenizer) = Run::open(recipe, options).await?;
    if run.progress.step > 0 {
        tracing::info!(step = run.progress.step, "going on from a checkpoint");
    }
    let loader = Loader::start(inputs, tokenizer, run.loader_settings(), run.progress.position)
        .context("cannot start the loader")?;
    let mut window = Window::default();
    // A run that stopped early stays stopped when it is asked again.
    while run.progress.step < recipe.optimizer.steps && !run.waited_enough() {
        let begun = Instant::now();
        let loaded = loader.next()?;
        run.step(&loaded.batch, &mut window)?;
        run.progress.position = loaded.position;
        run.progress.counts.add(&loaded.counts);
        let seconds = begun.elapsed().as_secs_f64();
        window.seconds += seconds;
        run.progress.seconds += seconds;
        let step = run.progress.step;
        let last = step == recipe.optimizer.steps;
        if last || step.is_multiple_of(recipe.run.log_every) {
            run.log(&mut window)?;
        }
        let mut enough = false;
        if last || step.is_multiple_of(recipe.run.validate_every) {
            enough = run.judge()?;
        }
        let stopping = stop.requested();
        if last || enough || stopping || step.is_multiple_of(recipe.run.checkpoint_every) {
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
    /// Model, data and optimizer, new or from the newest checkpoint.
    async fn open(
        recipe: &'a Recipe,
        options: Options,
    ) -> anyhow::Result<(Self, Arc<Inputs>, Arc<Tokenizer>)> {
        let mut run = Self::model(recipe, options)?;
        let tokenizer = Arc::new(tokenizer(&run.source)?);
        let data = &recipe.data;
        let inputs = Arc::new(Inputs::list(&data.train, data.format, data.caption.clone()).await?);
        if !data.validation.is_empty() {
            let held_out = Arc::new(Inputs::list(&data.validation, data.format, data.caption.clone()).await?);
            let settings = run.loader_settings();
            let (batches, counts) =
                load_all(held_out, Arc::clone(&tokenizer), settings, data.validation_samples).await?;
            tracing::info!("validation: {counts}");
            run.validation = batches;
        }
        tracing::info!(
            parameters = run.model.parameters.count(),
            trained = run.optimizer.groups().iter().filter(|g| g.trained).count(),
            tensors = run.optimizer.groups().len(),
            shards = inputs.len(),
            device = recipe.run.device,
            "training"
        );
        Ok((run, inputs, tokenizer))
    }

    /// Model and optimizer, new or from the newest checkpoint.
    fn model(recipe: &'a Recipe, options: Options) -> anyhow::Result<Self> {
        let out = &recipe.run.out;
        std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        let device = device::open(&recipe.run.device)?;
        let source = source(recipe)?;
        let freeze = recipe.freeze().map_err(anyhow::Error::msg)?;
        let groups = groups(&source.config, &source.list, &freeze, recipe.optimizer.layer_decay);
        let trained: Vec<bool> = groups.iter().map(|g| g.trained).collect();
        let found = match options.overwrite {
            true => None,
            false => state::newest(out, &source.list, &device.clone().inner())?,
        };
        let fingerprint = recipe.fingerprint();
        let (progress, values, state, average) = match found {
            Some(found) => {
                compare(&found.progress.recipe, &fingerprint, recipe)?;
                (found.progress, found.values, found.optimizer, found.average)
            }
            None => (Progress::new(fingerprint), source.values.clone(), AdamWState::default(), None),
        };
        let compute = match recipe.run.precision {
            Compute::Fp32 => burn::tensor::DType::F32,
            Compute::Bf16 => burn::tensor::DType::BF16,
        };
        let parameters =
            Parameters::new(source.list.clone(), values, &trained, &device).computing_in(compute);
        let average = match average {
            None if recipe.optimizer.ema_decay > 0.0 => Some(parameters.without_autodiff().values().to_vec()),
            average => average,
        };
        let mut optimizer = AdamW::new(recipe.adamw(), groups);
        if state.steps > 0 {
            optimizer.state = state;
        }
        let model = Coca::new(source.config, parameters).context("the checkpoint is no CoCa")?;
        let metrics = metrics::Metrics::resume(out, progress.step, recipe.optimizer.steps, options.terminal)?;
        let validation = Vec::new();
        Ok(Self { recipe, device, source, model, optimizer, average, progress, validation, metrics })
    }

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
    fn step(&mut self, batch: &Batch, window: &mut Window) -> anyhow::Result<()> {
        let recipe = self.recipe;
        let part = recipe.run.micro_batch.unwrap_or(recipe.run.batch_size);
        let step = gradients(&self.model, batch, part, &recipe.weights(), &self.device);
        let limit = Some(recipe.optimizer.clip_norm).filter(|limit| *limit > 0.0);
        let (norm, factor) = clip(&step.gradients, limit);
        if !(step.contrastive + step.caption + norm).is_finite() {
            bail!(not_a_number(self.progress.step + 1, [step.contrastive, step.caption, norm], batch));
        }
        let lr = recipe.schedule().at(self.progress.step);
        let values = self.optimizer.step(self.model.parameters.values(), step.gradients, lr, factor);
        self.model.parameters.replace(values);
        self.model.parameters.clamp("logit_scale", 0.0, MAX_LOGIT_SCALE);
        if let Some(old) = self.average.take() {
            let new = average(old, self.model.parameters.values(), recipe.optimizer.ema_decay);
            self.average = Some(new);
        }
        self.progress.step += 1;
        self.metrics.step(self.progress.step);
        window.steps += 1;
        window.contrastive += step.contrastive;
        window.caption += step.caption;
        window.norm += norm;
        Ok(())
    }

    fn log(&mut self, window: &mut Window) -> anyhow::Result<()> {
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
        *window = Window::default();
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
    fn judge(&mut self) -> anyhow::Result<bool> {
        if self.validation.is_empty() {
            return Ok(false);
        }
        let model = self.judged();
        let found = validate(&model, &self.validation, &self.recipe.weights(), &self.device.clone().inner());
        let best = self.progress.best.is_none_or(|(_, loss)| found.loss() < loss);
        if best {
            self.progress.best = Some((self.progress.step, found.loss()));
            self.progress.worse = 0;
            self.source.with_values(model.parameters.to_host()).write(&self.best_folder())?;
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

    fn best_folder(&self) -> PathBuf {
        self.recipe.run.out.join("best")
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
        })
    }
}

/// What a step says that must not go on.
fn not_a_number(step: u64, [contrastive, caption, norm]: [f64; 3], batch: &Batch) -> String {
    let told: Vec<&str> = batch.keys.iter().take(KEYS_TOLD).map(String::as_str).collect();
    let rest = batch.keys.len().saturating_sub(KEYS_TOLD);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!(
        "step {step}: contrastive loss {contrastive}, caption loss {caption}, gradient norm {norm}: not a number. The batch's keys: {}{more}. \
         The last checkpoint is untouched; look at these images and captions, lower `optimizer.lr` or set `optimizer.clip_norm`, then run again",
        told.join(", ")
    )
}

/// Which settings differ from the checkpoints'.
fn compare(old: &serde_json::Value, new: &serde_json::Value, recipe: &Recipe) -> Result<(), Mismatch> {
    let mut keys = Vec::new();
    let sections = new.as_object().into_iter().flatten();
    for (section, values) in sections {
        for (key, value) in values.as_object().into_iter().flatten() {
            let before = &old[section][key];
            if before != value {
                keys.push(format!("{section}.{key} was {before}, is {value}"));
            }
        }
    }
    if keys.is_empty() {
        return Ok(());
    }
    Err(Mismatch { out: recipe.run.out.display().to_string(), keys: keys.join("; ") })
}

/// The model that training begins with.
fn source(recipe: &Recipe) -> anyhow::Result<OpenClip> {
    let mut source = match recipe.model.init {
        Initialisation::Checkpoint => OpenClip::read(&recipe.model.checkpoint)?,
        Initialisation::Random => OpenClip::initialise(&recipe.model.checkpoint, recipe.run.seed)?,
    };
    source.save_as(match recipe.model.save_as {
        SaveAs::Source => None,
        SaveAs::Fp32 => Some(recaption_onnx::checkpoint::Dtype::F32),
        SaveAs::Fp16 => Some(recaption_onnx::checkpoint::Dtype::F16),
    });
    Ok(source)
}

fn tokenizer(source: &OpenClip) -> anyhow::Result<Tokenizer> {
    let c = &source.config;
    let vocabulary = c.text.vocab_size;
    let special = SpecialIds { pad: 0, start: vocabulary as i64 - 2, end: vocabulary as i64 - 1 };
    let path = source.dir.join(recaption_onnx::checkpoint::Checkpoint::TOKENIZER);
    Ok(Tokenizer::from_file(&path, special, c.text.context_length, vocabulary)?)
}
