//! Why a part cannot be written.

use parquet::errors::ParquetError;
use recaption_store::{ErrorKind, user_message};

/// Why a part cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The encoder failed.
    #[error("{part}: cannot encode Parquet: {source}")]
    Encode {
        /// The part's URL.
        part: String,
        /// The encoder's error.
        source: ParquetError,
    },
    /// The upload failed.
    #[error("{part}: cannot upload: {}", upload_error(source))]
    Upload {
        /// The part's URL.
        part: String,
        /// The store's error.
        source: std::io::Error,
    },
}

impl WriteError {
    /// Returns what can be done about the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Encode { .. } => ErrorKind::Permanent,
            Self::Upload { source, .. } => match store_error(source) {
                // The upload was completed or aborted elsewhere: the part can be sent again.
                Some(object_store::Error::NotFound { .. }) => ErrorKind::Exhausted,
                Some(error) => ErrorKind::of(error),
                None => ErrorKind::of_io(source),
            },
        }
    }
}

/// Returns the store's own error within an input or output error.
fn store_error(error: &std::io::Error) -> Option<&object_store::Error> {
    error.get_ref()?.downcast_ref()
}

/// Returns the message of a failed upload.
pub(crate) fn upload_error(error: &std::io::Error) -> String {
    store_error(error).map_or_else(|| error.to_string(), user_message)
}
