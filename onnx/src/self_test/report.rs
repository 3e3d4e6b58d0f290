//! What a self-test reports.

use std::{path::PathBuf, time::Duration};

use super::{row_checks::GraphResult, workload::Graph};
use crate::runtime::RuntimeError;

/// Why the self-test did not pass.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The device's results differ from the CPU's.
    #[error(
        "self-test failed: on {place}, results of graph {graph} of model {model} differ from the CPU's: {fault}; nothing was captioned, since captions would be wrong"
    )]
    Differs {
        /// The model folder.
        model: PathBuf,
        /// The graph.
        graph: Graph,
        /// Provider, GPU, versions of driver and runtime.
        place: String,
        /// What differs, and by how much.
        fault: String,
    },
    /// A graph does not run.
    #[error("self-test failed: on {place}, graph {graph} of model {model} does not run: {source}")]
    Fails {
        /// The model folder.
        model: PathBuf,
        /// The graph.
        graph: Graph,
        /// Provider, GPU, versions of driver and runtime; or the CPU.
        place: String,
        /// The error.
        source: Box<RuntimeError>,
    },
    /// ONNX Runtime cannot be loaded.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Report of a self-test that passed.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfTestReport {
    /// Results by graph.
    pub results: Vec<GraphResult>,
    /// Duration of the test.
    pub duration: Duration,
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
        write!(f, "{:.1} s", self.duration.as_secs_f64())
    }
}
