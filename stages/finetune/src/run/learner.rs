//! The model of a run, by objective: what the training loop needs of a CoCa and of an ALBEF.

use std::path::Path;

use anyhow::Context;
use burn::tensor::{DType, Device, Tensor};
use recaption_image::Preprocess;
use recaption_onnx::{
    checkpoint::{Checkpoint, Dtype, Parameter},
    model::SpecialIds,
    tokenizer::Tokenizer,
};

use super::validate::{Validation, validate, validate_albef};
use crate::{
    albef_files::AlbefFiles,
    batch::Batch,
    config::{Initialisation, ObjectiveKind, Recipe, SaveAs},
    image_encoder::read_image_encoder,
    model::{
        Coca, Parameters,
        albef::{Albef, table},
        host,
    },
    objective::{StepGradients, albef, gradients},
    open_clip::OpenClip,
    optim::{Group, groups},
};

/// Largest logarithm of the inverse temperature of a CoCa: that of 100, as in CLIP and open_clip.
const MAX_LOGIT_SCALE: f32 = 4.605_170_2;

/// The files that training began with.
pub(super) enum Source {
    Coca(OpenClip),
    Albef(AlbefFiles),
}

/// A model that is trained or evaluated.
pub(super) enum Learner {
    Coca(Coca),
    Albef(Albef),
}

/// Opens a trained model, a CoCa or an ALBEF, and its tokenizer.
///
/// # Errors
/// Fails when a file is missing or malformed.
pub(super) fn open_trained(dir: &Path, device: &Device) -> anyhow::Result<(Learner, Tokenizer)> {
    let source = match dir.join(Checkpoint::CONFIG).exists() {
        true => Source::Coca(OpenClip::read(dir)?),
        false => Source::Albef(AlbefFiles::read(dir, None, 0)?),
    };
    let frozen = vec![false; source.list().len()];
    let model = source.learner(source.values().to_vec(), &frozen, DType::F32, device)?;
    Ok((model, source.tokenizer()?))
}

impl Source {
    /// Reads or initialises the model of a recipe.
    pub(super) fn open(recipe: &Recipe) -> anyhow::Result<Self> {
        let (dir, seed) = (&recipe.model.checkpoint, recipe.run.seed);
        Ok(match (recipe.objective.kind, recipe.model.init) {
            (ObjectiveKind::Coca, init) => {
                let mut source = match init {
                    Initialisation::Checkpoint => OpenClip::read(dir)?,
                    Initialisation::Random => OpenClip::initialise(dir, seed)?,
                };
                source.save_as(match recipe.model.save_as {
                    SaveAs::Source => None,
                    SaveAs::Fp32 => Some(Dtype::F32),
                    SaveAs::Fp16 => Some(Dtype::F16),
                });
                Self::Coca(source)
            }
            (ObjectiveKind::Albef, init) => {
                let overrides = recipe.albef_overrides();
                let mut files = match init {
                    Initialisation::Checkpoint => AlbefFiles::read(dir, Some(&overrides), seed)?,
                    Initialisation::Random => AlbefFiles::initialise(dir, Some(&overrides), seed)?,
                };
                if let Some(dir) = recipe.image_encoder() {
                    files.replace(read_image_encoder(dir, &files.config)?);
                }
                Self::Albef(files)
            }
        })
    }

    /// Returns names, shapes and initialisation of all parameters, in order.
    pub(super) fn list(&self) -> &[Parameter] {
        match self {
            Self::Coca(source) => &source.list,
            Self::Albef(source) => &source.list,
        }
    }

    /// Returns the values that training begins with.
    pub(super) fn values(&self) -> &[Vec<f32>] {
        match self {
            Self::Coca(source) => &source.values,
            Self::Albef(source) => &source.values,
        }
    }

    /// Returns how the optimizer treats each parameter.
    pub(super) fn groups(&self, recipe: &Recipe) -> anyhow::Result<Vec<Group>> {
        match self {
            Self::Coca(source) => {
                let freeze = recipe.freeze().map_err(anyhow::Error::msg)?;
                Ok(groups(&source.config, &source.list, &freeze, recipe.optimizer.layer_decay))
            }
            Self::Albef(source) => {
                let lr_scale = |name: &str| match name {
                    table::TEMPERATURE => (recipe.albef.temperature_lr / recipe.optimizer.lr).min(1.0),
                    _ => 1.0,
                };
                let group = |p: &Parameter| Group {
                    trained: table::is_trained(&p.name),
                    lr_scale: lr_scale(&p.name),
                    decay: p.shape.len() >= 2,
                };
                Ok(source.list.iter().map(group).collect())
            }
        }
    }

    /// Loads the model's tokenizer.
    pub(super) fn tokenizer(&self) -> anyhow::Result<Tokenizer> {
        match self {
            Self::Coca(source) => {
                let c = &source.config;
                let vocabulary = c.text.vocab_size;
                let special = SpecialIds::of_vocabulary(vocabulary);
                let path = source.dir.join(Checkpoint::TOKENIZER);
                Ok(Tokenizer::from_file(&path, special, c.text.context_length, vocabulary)?)
            }
            Self::Albef(source) => {
                let (b, ids) = (&source.config.bert, source.config.special_ids);
                let special = SpecialIds { pad: ids.pad, start: ids.cls, end: ids.sep };
                let most = source.config.max_text_tokens.min(b.max_position_embeddings);
                Ok(Tokenizer::of_albef(&source.dir, special, most, b.vocab_size)?)
            }
        }
    }

    /// Writes the model with `values` into `folder`; `best` asks for f32, for a model that is read again.
    pub(super) fn write(
        &self,
        recipe: &Recipe,
        values: Vec<Vec<f32>>,
        folder: &Path,
        best: bool,
    ) -> anyhow::Result<()> {
        match self {
            Self::Coca(source) => {
                let mut model = source.with_values(values);
                if best {
                    model.save_as(Some(Dtype::F32));
                }
                Ok(model.write(folder)?)
            }
            Self::Albef(source) => {
                let is_half = !best && recipe.model.save_as == SaveAs::Fp16;
                let dtype = if is_half { Dtype::F16 } else { Dtype::F32 };
                Ok(source.with_values(values).write(folder, dtype)?)
            }
        }
    }

    /// Reads the values of a model that [`Source::write`] wrote.
    pub(super) fn read_values(&self, folder: &Path) -> anyhow::Result<Vec<Vec<f32>>> {
        match self {
            Self::Coca(_) => Ok(OpenClip::read(folder)?.values),
            Self::Albef(_) => Ok(AlbefFiles::read(folder, None, 0)?.values),
        }
    }

    /// Creates the model with `values`; `trained[i]` is whether the i-th parameter gets a gradient. `compute` is the type of matrix
    /// products.
    pub(super) fn learner(
        &self,
        values: Vec<Vec<f32>>,
        trained: &[bool],
        compute: DType,
        device: &Device,
    ) -> anyhow::Result<Learner> {
        let parameters = Parameters::new(self.list().to_vec(), values, trained, device).computing_in(compute);
        Ok(match self {
            Self::Coca(source) => {
                Learner::Coca(Coca::new(source.config, parameters).context("the checkpoint is not a CoCa")?)
            }
            Self::Albef(source) => Learner::Albef(Albef { config: source.config.clone(), parameters }),
        })
    }
}

impl Learner {
    /// Returns the parameters.
    pub(super) fn parameters(&self) -> &Parameters {
        match self {
            Self::Coca(model) => &model.parameters,
            Self::Albef(model) => &model.parameters,
        }
    }

    /// Returns the parameters, to change them.
    pub(super) fn parameters_mut(&mut self) -> &mut Parameters {
        match self {
            Self::Coca(model) => &mut model.parameters,
            Self::Albef(model) => &mut model.parameters,
        }
    }

    /// Returns how the model's images are resized.
    pub(super) fn preprocess(&self) -> Preprocess {
        match self {
            Self::Coca(model) => model.config.preprocess,
            Self::Albef(model) => model.config.preprocess(),
        }
    }

    /// Computes losses and gradients of a batch in step `step`, counted from 0. Momentum copy and queues of an ALBEF are updated.
    pub(super) fn gradients(
        &mut self,
        recipe: &Recipe,
        batch: &Batch,
        step: u64,
        device: &Device,
    ) -> StepGradients {
        match self {
            Self::Coca(model) => gradients(model, batch, recipe.run.part(), &recipe.weights(), device),
            Self::Albef(model) => albef::gradients(model, batch, &recipe.albef_settings(step), device),
        }
    }

    /// Takes the optimizer's new values, and clamps the temperature.
    pub(super) fn replace(&mut self, values: Vec<Tensor<1>>) {
        self.parameters_mut().replace(values);
        match self {
            Self::Coca(model) => model.parameters.clamp("logit_scale", 0.0, MAX_LOGIT_SCALE),
            // The authors clamp before a step; doing so after it as well is the same, and covers the last.
            Self::Albef(model) => model.clamp_temperature(),
        }
    }

    /// Returns the inverse temperature.
    pub(super) fn inverse_temperature(&self) -> f64 {
        let value =
            |name: &str| host(&self.parameters().vector(name)).first().copied().map_or(f64::NAN, f64::from);
        match self {
            Self::Coca(_) => value("logit_scale").exp(),
            Self::Albef(_) => 1.0 / value(table::TEMPERATURE),
        }
    }

    /// Returns the same model without autodiff, with the values of a moving average if there is one.
    pub(super) fn evaluated(&self, average: Option<&Vec<Tensor<1>>>) -> Self {
        let mut model = match self {
            Self::Coca(model) => Self::Coca(model.without_autodiff()),
            Self::Albef(model) => Self::Albef(model.without_autodiff()),
        };
        if let Some(average) = average {
            model.parameters_mut().replace(average.clone());
        }
        model
    }

    /// Computes the losses on held-out batches. `device` must be without autodiff.
    pub(super) fn validate(&self, recipe: &Recipe, batches: &[Batch], device: &Device) -> Validation {
        match self {
            Self::Coca(model) => validate(model, batches, recipe.run.part(), &recipe.weights(), device),
            Self::Albef(model) => validate_albef(model, batches, &recipe.albef_settings(0), device),
        }
    }
}
