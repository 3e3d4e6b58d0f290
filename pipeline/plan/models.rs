//! The models and the hardware of a run: opened, compared with their digests, and resolved, as a run does it.

use recaption_onnx::runtime::{Execution, RuntimeError};
use serde::Serialize;

use super::problem::{Findings, Subject, text_of};
use crate::{
    config::RunConfig,
    run::{RunModel, copies_and_threads, self_test},
};

/// What a run computes with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compute {
    /// Execution provider.
    pub provider: &'static str,
    /// Numbers of the GPUs; empty for the CPU.
    pub devices: Vec<u32>,
    /// Threads that decode images and run the model.
    pub threads: usize,
    /// Copies of the model on each device.
    pub copies: usize,
    /// Threads of each copy.
    pub threads_per_copy: usize,
    /// Images that each copy captions together, as far as memory for attention caches allows; 0 if that is unknown.
    pub images_per_copy: usize,
}

/// The models and the hardware, as far as they can be used.
#[derive(Debug, Default)]
pub(super) struct Models {
    /// The models, with settings that fit the hardware.
    pub(super) model: Option<RunModel>,
    /// One per GPU, or one for the CPU; empty if none can be used.
    pub(super) executions: Vec<Execution>,
}

impl Models {
    /// Opens the models and finds the hardware.
    pub(super) async fn find(config: &RunConfig, findings: &mut Findings) -> Self {
        let mut models = Self { model: open(config, findings), executions: Vec::new() };
        let found = match &mut models.model {
            Some(model) => model.find_executions(config),
            None => Execution::resolve_all(config.model.provider, &config.model.devices, &[])
                .map_err(Into::into)
                .and_then(|found| Ok(config.model.refuse_unwanted_cpu(&found).map(|()| found)?)),
        };
        match found {
            Ok(executions) => models.executions = executions,
            Err(error) => {
                let remedy = match error.downcast_ref::<RuntimeError>() {
                    Some(RuntimeError::Library { .. }) => "install ONNX Runtime or name its library",
                    _ => "install what is missing, or choose another provider with --provider",
                };
                let provider = format!("model.provider = {}", config.model.provider.as_str());
                findings.add(Subject::Provider, provider, text_of(&error), remedy);
                return models;
            }
        }
        if let Some(model) = &models.model
            && let Err(error) = self_test(config, model, &models.executions).await
        {
            let place = models.executions.first().map_or("", |execution| execution.as_str());
            let remedy = "do not use this device: what it computes differs from the CPU";
            findings.add(Subject::Provider, place, text_of(&error), remedy);
        }
        models
    }

    /// Describes what a run would compute with; `None` where nothing can be used.
    pub(super) fn compute(&self, config: &RunConfig, slots: Option<usize>) -> Option<Compute> {
        let (first, model) = (self.executions.first()?, self.model.as_ref()?);
        let (copies, threads_per_copy) = copies_and_threads(config, model, *first);
        Some(Compute {
            provider: first.as_str(),
            devices: self.executions.iter().filter_map(|execution| execution.device()).collect(),
            threads: config.resources.threads,
            copies,
            threads_per_copy,
            images_per_copy: slots.unwrap_or(0),
        })
    }
}

/// Opens the models; `None` with the problems of all of them.
fn open(config: &RunConfig, findings: &mut Findings) -> Option<RunModel> {
    if config.model.captioner.as_os_str().is_empty() {
        return None;
    }
    let place = config.model.captioner.display().to_string();
    let remedy = "export the model again, or correct model.captioner, model.scorer or the settings named";
    match RunModel::open_all(config) {
        Ok(model) => {
            if let Err(error) = model.verify_files() {
                findings.add(Subject::Model, place, text_of(&error), remedy);
            }
            if model.is_circular() {
                findings.note("the captioner scores its own captions: similarities do not compare models; --scorer MODEL scores with another");
            }
            Some(model)
        }
        Err(errors) => {
            let scorer = config.model.scorer.as_ref().map(|dir| dir.display().to_string());
            for error in errors {
                let text = text_of(&error);
                let of_scorer = text.starts_with("model.scorer");
                let place = scorer.as_ref().filter(|_| of_scorer).unwrap_or(&place);
                findings.add(Subject::Model, place, text, remedy);
            }
            None
        }
    }
}
