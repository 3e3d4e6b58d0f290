//! Sessions, created the same way for every graph.

use std::path::Path;

use ort::session::{Session, builder::GraphOptimizationLevel};

use super::{RuntimeError, load_library};

/// How sessions use the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads inside one operator, at least 1. They sleep when idle: other stages use the same cores.
    pub threads: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { threads: std::thread::available_parallelism().map_or(1, Into::into) }
    }
}

/// Loads a graph.
pub(super) fn create(path: &Path, options: &SessionOptions) -> Result<Session, RuntimeError> {
    let environment = load_library()?;
    let failed = |source| RuntimeError::Session { path: path.to_owned(), source };
    let build = || -> ort::Result<Session> {
        Session::builder(&environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(options.threads.max(1))?
            .with_intra_op_spinning(false)?
            .commit_from_file(path)
    };
    build().map_err(failed)
}
