//! How a run begins: model, data and optimizer, new or from the newest checkpoint.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use recaption_onnx::{
    checkpoint::{Checkpoint, Dtype},
    model::SpecialIds,
    tokenizer::Tokenizer,
};

use super::{BEST, MODEL, Mismatch, ONNX, Options, Progress, Run, metrics, state};
use crate::{
    config::{Compute, Initialisation, Recipe, SaveAs, unusable},
    data::{Inputs, load_all},
    device,
    model::{Coca, Parameters},
    open_clip::OpenClip,
    optim::{AdamW, AdamWState, groups},
};

impl<'a> Run<'a> {
    /// Model, data and optimizer, new or from the newest checkpoint.
    pub(super) async fn open(
        recipe: &'a Recipe,
        options: Options,
    ) -> anyhow::Result<(Self, Arc<Inputs>, Arc<Tokenizer>)> {
        let mut run = Self::model(recipe, options)?;
        let tokenizer = Arc::new(tokenizer(&run.source)?);
        let data = &recipe.data;
        let inputs = Arc::new(Inputs::list(&data.train, data.format, data.caption.clone()).await?);
        let digest = inputs.digest();
        if run.progress.step > 0 && run.progress.inputs != digest {
            let keys = "data.train names other shards, or shards that changed: a place in the data means nothing there";
            return Err(Mismatch { out: recipe.run.out.display().to_string(), keys: keys.into() }.into());
        }
        run.progress.inputs = digest;
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
        if !trained.contains(&true) {
            bail!(unusable("model.freeze: everything is frozen, so nothing would be learnt"));
        }
        let found = state::newest(out, &source.list, &device.clone().inner())?;
        let fingerprint = recipe.fingerprint();
        let (progress, values, state, average) = match found {
            Some(found) => {
                compare(&found.progress.recipe, &fingerprint, recipe)?;
                (found.progress, found.values, found.optimizer, found.average)
            }
            None => (Progress::new(fingerprint), source.values.clone(), AdamWState::default(), None),
        };
        let compute = match recipe.run.precision {
            Compute::Fp32 | Compute::Auto => burn::tensor::DType::F32,
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
}

/// Removes what an earlier run left, so that nothing of it can be taken for this one's.
pub(super) fn begin_anew(out: &Path) -> anyhow::Result<()> {
    for folder in [state::FOLDER, BEST, MODEL, ONNX] {
        match std::fs::remove_dir_all(out.join(folder)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", out.join(folder).display()));
            }
            _ => {}
        }
    }
    Ok(())
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
