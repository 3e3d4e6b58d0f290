//! Which stores lack conditional puts.

use std::io::ErrorKind;

use object_store::Error;

/// Returns whether `error` says that the store, or the file system below it, has no conditional put: old S3 servers, and
/// file systems without hard links.
#[must_use]
pub fn lacks_conditional_put(error: &Error) -> bool {
    match error {
        Error::NotImplemented { .. } | Error::NotSupported { .. } => true,
        Error::Generic { .. } => {
            let text = error.to_string();
            let link = std::iter::successors(std::error::Error::source(error), |e| e.source())
                .find_map(|e| e.downcast_ref::<std::io::Error>())
                .is_some_and(|e| matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied));
            link || text.contains("status code: 501") || text.contains("NotImplemented")
        }
        _ => false,
    }
}
