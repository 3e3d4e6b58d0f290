//! The beginning of a run: model, data and optimizer, new or from the newest checkpoint.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use burn::tensor::DType;
use recaption_onnx::{
    checkpoint::{Checkpoint, Dtype},
    model::SpecialIds,
    tokenizer::Tokenizer,
};

use super::{
    error::{RecipeMismatch, compare_recipes},
    finish::{MODEL, ONNX},
    metrics::Metrics,
    options::TrainOptions,
    progress_bars::ProgressPlan,
    state::{self, TrainingProgress},
    training::{BEST, Training},
};
use crate::{
    config::{Compute, Initialisation, Recipe, SaveAs, unusable},
    data::{Inputs, load_all},
    device,
    model::{Coca, Parameters},
    open_clip::OpenClip,
    optim::{AdamW, AdamWState, groups},
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
    let tokenizer = Arc::new(tokenizer(&training.source)?);
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
        parameters = training.model.parameters.count(),
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
    let source = source(recipe)?;
    let freeze = recipe.freeze().map_err(anyhow::Error::msg)?;
    let groups = groups(&source.config, &source.list, &freeze, recipe.optimizer.layer_decay);
    let trained: Vec<bool> = groups.iter().map(|g| g.trained).collect();
    if !trained.contains(&true) {
        bail!(unusable("model.freeze: everything is frozen, so nothing would be trained"));
    }
    let checkpoint = state::newest(out, &source.list, &device.clone().inner())?;
    let fingerprint = recipe.fingerprint();
    let (progress, values, state, average) = match checkpoint {
        Some(checkpoint) => {
            compare_recipes(&checkpoint.progress.recipe, &fingerprint, recipe)?;
            (checkpoint.progress, checkpoint.values, checkpoint.optimizer, checkpoint.average)
        }
        None => (TrainingProgress::new(fingerprint), source.values.clone(), AdamWState::default(), None),
    };
    let compute = match recipe.run.precision {
        Compute::Fp32 | Compute::Auto => DType::F32,
        Compute::Bf16 => DType::BF16,
    };
    let parameters = Parameters::new(source.list.clone(), values, &trained, &device).computing_in(compute);
    let average = match average {
        None if recipe.optimizer.ema_decay > 0.0 => Some(parameters.without_autodiff().values().to_vec()),
        average => average,
    };
    let mut optimizer = AdamW::new(recipe.adamw(), groups);
    if state.steps > 0 {
        optimizer.state = state;
    }
    let model = Coca::new(source.config, parameters).context("the checkpoint is not a CoCa")?;
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

/// Reads or initialises the model that training begins with.
fn source(recipe: &Recipe) -> anyhow::Result<OpenClip> {
    let mut source = match recipe.model.init {
        Initialisation::Checkpoint => OpenClip::read(&recipe.model.checkpoint)?,
        Initialisation::Random => OpenClip::initialise(&recipe.model.checkpoint, recipe.run.seed)?,
    };
    source.save_as(match recipe.model.save_as {
        SaveAs::Source => None,
        SaveAs::Fp32 => Some(Dtype::F32),
        SaveAs::Fp16 => Some(Dtype::F16),
    });
    Ok(source)
}

fn tokenizer(source: &OpenClip) -> anyhow::Result<Tokenizer> {
    let c = &source.config;
    let vocabulary = c.text.vocab_size;
    let special = SpecialIds::of_vocabulary(vocabulary);
    let path = source.dir.join(Checkpoint::TOKENIZER);
    Ok(Tokenizer::from_file(&path, special, c.text.context_length, vocabulary)?)
}
