//! Checks, before a run on a device, that it computes what the CPU computes.
//!
//! A provider's kernels can be wrong without an error (a CUDA kernel once read a wrong length, and captions were wrong). So a few
//! built-in images and ids go through the graphs of the run, on the device and on the CPU, and the rows are compared. A passed
//! test is cached, see [`SelfTestCache`].

mod cache;
mod environment;
mod inputs;
mod report;
mod row_checks;
mod workload;

use std::time::Instant;

pub use self::{
    cache::SelfTestCache,
    report::{SelfTestError, SelfTestReport},
    row_checks::GraphResult,
    workload::Graph,
};
use self::{
    environment::TestEnvironment,
    workload::{CaptionerOutputs, Failure, ScorerOutputs},
};
use crate::{
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions},
};

/// When a device passed its self-test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// It passed now.
    Now,
    /// It passed in an earlier run in the same environment.
    Earlier,
}

/// The models of a run.
#[derive(Clone, Copy, Debug)]
struct Models<'a> {
    captioner: &'a ModelFolder,
    /// `None` if the captioner scores its own captions.
    scorer: Option<&'a ModelFolder>,
}

impl<'a> Models<'a> {
    /// Returns the model that scores.
    fn scoring(self) -> &'a ModelFolder {
        self.scorer.unwrap_or(self.captioner)
    }
}

/// Returns whether there is a device to test.
#[must_use]
pub fn is_needed(options: &SessionOptions) -> bool {
    options.memory().is_some()
}

/// Tests the models on the device of `options`, unless they passed before in the same environment.
///
/// # Errors
/// When the device's results differ from the CPU's, or a graph does not run.
pub fn cached_self_test(
    captioner: &ModelFolder,
    scorer: Option<&ModelFolder>,
    options: &SessionOptions,
    cache: &SelfTestCache,
) -> Result<Passed, SelfTestError> {
    let environment = TestEnvironment::of(captioner, scorer, options)?;
    let is_cacheable = environment.is_known(options);
    if is_cacheable && cache.contains(&environment) {
        tracing::info!(place = environment.place(options), "self-test passed in an earlier run; skipping it");
        return Ok(Passed::Earlier);
    }
    let models = Models { captioner, scorer };
    let report = compare_sides(models, models, options, &environment.place(options))?;
    tracing::info!(place = environment.place(options), result = %report, "self-test passed");
    if is_cacheable {
        cache.store(&environment, &report);
    } else {
        tracing::info!("the GPU's model or driver version is unknown; not caching the self-test");
    }
    Ok(Passed::Now)
}

/// Tests the models on the device of `options`, without a cache.
///
/// # Errors
/// As for [`cached_self_test`].
pub fn self_test(
    captioner: &ModelFolder,
    scorer: Option<&ModelFolder>,
    options: &SessionOptions,
) -> Result<SelfTestReport, SelfTestError> {
    let place = TestEnvironment::of(captioner, scorer, options)?.place(options);
    let models = Models { captioner, scorer };
    compare_sides(models, models, options, &place)
}

/// What one side, CPU or device, computed.
struct SideOutputs {
    captioner: Result<CaptionerOutputs, Failure>,
    scorer: Result<ScorerOutputs, Failure>,
}

impl SideOutputs {
    /// Runs all graphs; captioner and scorer concurrently, since most of the time is spent loading.
    fn run(models: Models<'_>, options: &SessionOptions, caption: bool) -> Self {
        let panicked = |graph| (graph, RuntimeError::Input("a thread panicked".into()));
        std::thread::scope(|scope| {
            let scorer =
                scope.spawn(|| workload::run_scorer(models.scoring(), options, models.scorer.is_some()));
            Self {
                captioner: workload::run_captioner(models.captioner, options, caption),
                scorer: scorer.join().unwrap_or_else(|_| Err(panicked(Graph::ScorerTextEncoder))),
            }
        })
    }

    /// Returns both outputs, or the first failure.
    fn into_result(
        self,
        models: Models<'_>,
        place: &str,
    ) -> Result<(CaptionerOutputs, ScorerOutputs), SelfTestError> {
        let fails = |model: &ModelFolder, (graph, source): Failure| SelfTestError::Fails {
            model: model.dir.clone(),
            graph,
            place: place.to_owned(),
            source: Box::new(source),
        };
        let captioner = self.captioner.map_err(|failure| fails(models.captioner, failure))?;
        Ok((captioner, self.scorer.map_err(|failure| fails(models.scoring(), failure))?))
    }
}

/// Compares models on the CPU with models on a device; both are the same folders except in tests.
fn compare_sides(
    on_cpu: Models<'_>,
    on_device: Models<'_>,
    options: &SessionOptions,
    place: &str,
) -> Result<SelfTestReport, SelfTestError> {
    let began = Instant::now();
    let plain = SessionOptions::on_cpu(options.threads);
    let (cpu, device) = std::thread::scope(|scope| {
        let device = scope.spawn(|| SideOutputs::run(on_device, options, true));
        let cpu = SideOutputs::run(on_cpu, &plain, false);
        (cpu, device.join())
    });
    let device = device.map_err(|_| RuntimeError::Input("a thread of the self-test panicked".into()))?;
    let (cpu_captioner, cpu_scorer) = cpu.into_result(on_cpu, "the CPU, as the reference")?;
    let (captioner, scorer) = device.into_result(on_device, place)?;
    let spec = &on_device.captioner.spec;
    let width = spec.dimensions.embed_dim;
    let mut results = row_checks::check_captioner(&cpu_captioner, &captioner, spec.special_ids, width);
    results.extend(row_checks::check_scorer(
        &cpu_scorer,
        &scorer,
        on_device.scoring().spec.dimensions.embed_dim,
    ));
    let model = |graph| match graph {
        Graph::ScorerImageEncoder | Graph::ScorerTextEncoder | Graph::ScorerFusion => on_device.scoring(),
        Graph::ImageEncoder | Graph::Decoder | Graph::TokenSelection => on_device.captioner,
    };
    match results.iter().find_map(|result| Some((result.graph, result.fault.clone()?))) {
        Some((graph, fault)) => {
            let model = model(graph).dir.clone();
            Err(SelfTestError::Differs { model, graph, place: place.to_owned(), fault })
        }
        None => Ok(SelfTestReport { results, duration: began.elapsed() }),
    }
}

#[cfg(test)]
mod tests;
