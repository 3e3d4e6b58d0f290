//! Errors of an export.

use std::path::PathBuf;

use super::host_inputs::GraphError;
use crate::{checkpoint::CheckpointError, model::ModelError};

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The exported folder cannot be read back.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A graph could not run on a GPU: a bug of the exporter.
    #[error("internal error: {0}")]
    Graph(#[from] Box<GraphError>),
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A weight does not fit into fp16.
    #[error("tensor `{name}` holds {value}, which is out of fp16's range; export with --precision fp32")]
    Overflow {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
    },
    /// The target exists and is not a model folder.
    #[error(
        "{0} exists and is not a model folder, or holds files that no export wrote; choose another folder or remove it"
    )]
    Occupied(PathBuf),
}
