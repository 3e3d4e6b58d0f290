//! The beginning of a run: model, data and optimizer, new or from the newest checkpoint.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use recaption_onnx::tokenizer::Tokenizer;

use super::{
    error::{RecipeMismatch, compare_recipes},
    finish::{MODEL, ONNX},
    learner::Source,
    metrics::Metrics,
    options::TrainOptions,
    progress_bars::ProgressPlan,
    state::{self, TrainingProgress},
    training::{BEST, Training},
};
use crate::{
    config::{Recipe, unusable},
    data::{Inputs, load_all},
    device,
    optim::{AdamW, AdamWState},
};

/// Opens model, data and optimizer, new or from the newest checkpoint.
///
/// # Errors
/// Fails on invalid settings, an unusable model, checkpoint or data, and when the run's folder cannot be written.
pub(super) async fn open(
    recipe: &Recipe,
    options: TrainOptions,
) -> anyhow::Result<(Training<'_>, Arc<Inputs>, Arc<Tokenizer>)> {
    let mut training = open_model(recipe, options)?;
    let tokenizer = Arc::new(training.source.tokenizer()?);
    let data = &recipe.data;
    let inputs = Arc::new(Inputs::list(&data.train, data.format, data.caption.clone()).await?);
    let digest = inputs.digest();
    if training.progress.step > 0 && training.progress.inputs != digest {
        return Err(RecipeMismatch::other_data(&recipe.run.out).into());
    }
    training.progress.inputs = digest;
    if !data.validation.is_empty() {
        let held_out = Arc::new(Inputs::list(&data.validation, data.format, data.caption.clone()).await?);
        let settings = training.loader_settings();
        let (batches, counts) =
            load_all(held_out, Arc::clone(&tokenizer), settings, data.validation_samples).await?;
        tracing::info!("validation: {counts}");
        training.validation = batches;
    }
    tracing::info!(
        parameters = training.model.parameters().count(),
        trained = training.optimizer.groups().iter().filter(|g| g.trained).count(),
        tensors = training.optimizer.groups().len(),
        shards = inputs.len(),
        device = recipe.run.device,
        "training"
    );
    Ok((training, inputs, tokenizer))
}

/// Opens model and optimizer, new or from the newest checkpoint.
fn open_model(recipe: &Recipe, options: TrainOptions) -> anyhow::Result<Training<'_>> {
    let out = &recipe.run.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let device = device::open(&recipe.run.device)?;
    let source = Source::open(recipe)?;
    let groups = source.groups(recipe)?;
    let trained: Vec<bool> = groups.iter().map(|g| g.trained).collect();
    if !trained.contains(&true) {
        bail!(unusable("model.freeze: everything is frozen, so nothing would be trained"));
    }
    let checkpoint = state::newest(out, source.list(), &device.clone().inner())?;
    let fingerprint = recipe.fingerprint();
    let (progress, values, state, average) = match checkpoint {
        Some(checkpoint) => {
            compare_recipes(&checkpoint.progress.recipe, &fingerprint, recipe)?;
            (checkpoint.progress, checkpoint.values, checkpoint.optimizer, checkpoint.average)
        }
        None => (TrainingProgress::new(fingerprint), source.values().to_vec(), AdamWState::default(), None),
    };
    let model = source.learner(values, &trained, recipe.run.precision.dtype(), &device)?;
    let average = match average {
        None if recipe.optimizer.ema_decay > 0.0 => {
            Some(model.evaluated(None).parameters().values().to_vec())
        }
        average => average,
    };
    let mut optimizer = AdamW::new(recipe.adamw(), groups);
    if state.steps > 0 {
        optimizer.state = state;
    }
    let plan = options.terminal.then(|| ProgressPlan {
        steps: recipe.optimizer.steps,
        log_every: recipe.run.log_every,
        validate_every: (!recipe.data.validation.is_empty()).then_some(recipe.run.validate_every),
    });
    let metrics = Metrics::resume(out, progress.step, plan)?;
    let validation = Vec::new();
    Ok(Training { recipe, device, source, model, optimizer, average, progress, validation, metrics })
}

/// Deletes what an earlier run left, so that nothing of it can be mistaken for this one's.
///
/// # Errors
/// Fails when a folder cannot be deleted.
pub(super) fn delete_previous(out: &Path) -> anyhow::Result<()> {
    for folder in [state::FOLDER, BEST, MODEL, ONNX] {
        match std::fs::remove_dir_all(out.join(folder)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot delete {}", out.join(folder).display()));
            }
            _ => {}
        }
    }
    Ok(())
}
