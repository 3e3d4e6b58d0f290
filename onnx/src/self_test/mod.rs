//! Before the first sample of a run on a device: does it compute what the CPU computes?
//!
//! A provider's kernels can be wrong without an error (CUDA once read a wrong length and wrote wrong captions), and nobody sees a
//! wrong caption among a billion. So a few built-in pictures and ids go through the very graphs of the run, on the device and on the
//! CPU, and the rows are compared. A pass is remembered, see [`SelfTestCache`].

mod circumstances;
mod exercise;
mod inputs;
mod judge;
mod remembered;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use self::exercise::{CaptionerAnswers, Failure, ScorerAnswers};
pub use self::{
    circumstances::Circumstances, exercise::Graph, judge::GraphResult, remembered::SelfTestCache,
};
use crate::{
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions},
};

/// Why a run must not begin.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The device computes something else than the CPU.
    #[error(
        "the self-test failed: on {place}, graph {graph} of model {model} does not compute what it computes on the CPU: {fault}; nothing was captioned, since captions would be wrong"
    )]
    Differs {
        /// The model folder.
        model: PathBuf,
        /// Its graph.
        graph: Graph,
        /// Provider, GPU, versions of driver and runtime.
        place: String,
        /// What differs and by how much.
        fault: String,
    },
    /// A graph does not run.
    #[error(
        "the self-test could not be made: on {place}, graph {graph} of model {model} does not run: {source}"
    )]
    Fails {
        /// The model folder.
        model: PathBuf,
        /// Its graph.
        graph: Graph,
        /// Provider, GPU, versions of driver and runtime; the CPU where that side failed.
        place: String,
        /// What ONNX Runtime or the program reports.
        source: Box<RuntimeError>,
    },
    /// ONNX Runtime cannot be loaded.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// What a self-test that passed found.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfTestReport {
    /// By graph.
    pub results: Vec<GraphResult>,
    /// How long it took.
    pub took: Duration,
}

impl std::fmt::Display for SelfTestReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for result in &self.results {
            write!(f, "{}: {} rows", result.graph, result.rows)?;
            if let Some(cosine) = result.cosine {
                write!(f, ", smallest cosine {cosine:.6}")?;
            }
            f.write_str("; ")?;
        }
        write!(f, "{:.1} s", self.took.as_secs_f64())
    }
}

/// How it is known that a device computes what the CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Tested now.
    Now,
    /// Tested by an earlier run under the same circumstances.
    Earlier,
}

/// The models of a run.
#[derive(Clone, Copy, Debug)]
struct Models<'a> {
    captioner: &'a ModelFolder,
    /// None where the captioner scores its own captions.
    scorer: Option<&'a ModelFolder>,
}

impl<'a> Models<'a> {
    /// The model that scores.
    fn scoring(self) -> &'a ModelFolder {
        self.scorer.unwrap_or(self.captioner)
    }
}

/// Whether anything but the plain CPU computes, so that there is something to test.
#[must_use]
pub fn is_needed(options: &SessionOptions) -> bool {
    options.memory().is_some()
}

/// Tests the models on the device of `options`, unless that passed before under the same circumstances.
///
/// # Errors
/// When the device computes something else than the CPU, or a graph does not run.
pub fn pass(
    captioner: &ModelFolder,
    scorer: Option<&ModelFolder>,
    options: &SessionOptions,
    cache: &SelfTestCache,
) -> Result<Passed, SelfTestError> {
    let circumstances = Circumstances::of(captioner, scorer, options)?;
    let can_be_remembered = circumstances.are_known(options);
    if can_be_remembered && cache.contains(&circumstances) {
        tracing::info!(place = circumstances.place(options), "self-test passed before; not repeated");
        return Ok(Passed::Earlier);
    }
    let models = Models { captioner, scorer };
    let report = between(models, models, options, &circumstances.place(options))?;
    tracing::info!(place = circumstances.place(options), result = %report, "self-test passed");
    if can_be_remembered {
        cache.remember(&circumstances, &report);
    } else {
        tracing::info!(
            "the GPU's model or its driver's version is unknown, so the self-test is not remembered"
        );
    }
    Ok(Passed::Now)
}

/// Tests without remembering.
///
/// # Errors
/// As [`pass`].
pub fn self_test(
    captioner: &ModelFolder,
    scorer: Option<&ModelFolder>,
    options: &SessionOptions,
) -> Result<SelfTestReport, SelfTestError> {
    let place = Circumstances::of(captioner, scorer, options)?.place(options);
    let models = Models { captioner, scorer };
    between(models, models, options, &place)
}

/// What one side computed.
struct Side {
    captioner: Result<CaptionerAnswers, Failure>,
    scorer: Result<ScorerAnswers, Failure>,
}

impl Side {
    /// Runs everything; captioner and scorer side by side, since most of the time goes into loading.
    fn run(models: Models<'_>, options: &SessionOptions, caption: bool) -> Self {
        let panicked = |graph| (graph, RuntimeError::Input("a thread panicked".into()));
        std::thread::scope(|scope| {
            let scorer = scope.spawn(|| exercise::scorer(models.scoring(), options, models.scorer.is_some()));
            Self {
                captioner: exercise::captioner(models.captioner, options, caption),
                scorer: scorer.join().unwrap_or_else(|_| Err(panicked(Graph::ScorerTextEncoder))),
            }
        })
    }

    /// Both answers, or the first failure in words.
    fn answers(
        self,
        models: Models<'_>,
        place: &str,
    ) -> Result<(CaptionerAnswers, ScorerAnswers), SelfTestError> {
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

/// Compares models on the CPU with models on a device; a run gives the same folders for both.
fn between(
    on_cpu: Models<'_>,
    on_device: Models<'_>,
    options: &SessionOptions,
    place: &str,
) -> Result<SelfTestReport, SelfTestError> {
    let began = Instant::now();
    let plain = SessionOptions::on_cpu(options.threads);
    let (cpu, device) = std::thread::scope(|scope| {
        let device = scope.spawn(|| Side::run(on_device, options, true));
        let cpu = Side::run(on_cpu, &plain, false);
        (cpu, device.join())
    });
    let device = device.map_err(|_| RuntimeError::Input("a thread of the self-test panicked".into()))?;
    let (cpu_captioner, cpu_scorer) = cpu.answers(on_cpu, "the CPU, which the device is compared with")?;
    let (captioner, scorer) = device.answers(on_device, place)?;
    let spec = &on_device.captioner.spec;
    let width = spec.dimensions.embed_dim;
    let mut results = judge::captioner(&cpu_captioner, &captioner, spec.special_ids, width);
    results.extend(judge::scorer(&cpu_scorer, &scorer, on_device.scoring().spec.dimensions.embed_dim));
    let model = |graph| match graph {
        Graph::ScorerImageEncoder | Graph::ScorerTextEncoder => on_device.scoring(),
        Graph::ImageEncoder | Graph::Decoder | Graph::TokenSelection => on_device.captioner,
    };
    match results.iter().find_map(|result| Some((result.graph, result.fault.clone()?))) {
        Some((graph, fault)) => {
            let model = model(graph).dir.clone();
            Err(SelfTestError::Differs { model, graph, place: place.to_owned(), fault })
        }
        None => Ok(SelfTestReport { results, took: began.elapsed() }),
    }
}

#[cfg(test)]
mod tests;
