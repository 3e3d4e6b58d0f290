//! Errors of a second pass.

use recaption_store::StoreError;

use crate::{part_reader::ReadPartError, write_error::WriteError};

/// Why a second pass failed.
#[derive(Debug, thiserror::Error)]
pub enum SecondPassError {
    /// The store failed, or a record cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part of the new dataset cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A part of the source cannot be read, or has unexpected content.
    #[error(transparent)]
    Read(#[from] ReadPartError),
    /// The source or the new dataset as a whole cannot be used.
    #[error("{url}: {what}")]
    Dataset {
        /// The dataset's URL.
        url: String,
        /// What is wrong and what to do, in one line.
        what: String,
    },
}
