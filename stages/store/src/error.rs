//! Errors of this crate.

use crate::{ErrorKind, user_message};

/// Why a store, or a document in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A URL that names no usable place, or settings with which its store cannot be opened.
    #[error("{url}: {what}")]
    Url {
        /// The URL, redacted.
        url: String,
        /// What is wrong, in one line.
        what: String,
    },
    /// A document that cannot be read, written or understood.
    #[error("{url}: {what}")]
    Record {
        /// The document's URL, redacted.
        url: String,
        /// What is wrong, in one line.
        what: String,
    },
    /// A request that failed for good.
    #[error("{url}: {}", user_message(source))]
    Store {
        /// The URL, redacted.
        url: String,
        /// The store's own error.
        source: object_store::Error,
    },
}

impl StoreError {
    /// Returns what can be done about the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Url { .. } | Self::Record { .. } => ErrorKind::Permanent,
            Self::Store { source, .. } => ErrorKind::of(source),
        }
    }
}
