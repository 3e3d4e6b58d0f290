//! What an object store's error means: whether another attempt can succeed.

use std::error::Error as _;

use object_store::{Error, client::HttpError};

/// What can be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Another attempt can succeed.
    Transient,
    /// Transient, but the client has used up its own attempts.
    Exhausted,
    /// The object changed since it was listed.
    Changed,
    /// The disk, bucket or account is full.
    Full,
    /// Another attempt will fail the same way.
    Permanent,
}

impl ErrorKind {
    /// Returns the kind of a store's error.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Precondition { .. } => Self::Changed,
            // The runtime shuts down and cancels its tasks: nobody waits for another attempt.
            Error::JoinError { source } if source.is_cancelled() => Self::Permanent,
            Error::Generic { .. } | Error::PermissionDenied { .. } | Error::JoinError { .. } => {
                of_chain(error)
            }
            _ => Self::Permanent,
        }
    }

    /// Returns the kind of an input or output error.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::Full,
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::ConnectionRefused
            | Kind::NotConnected
            | Kind::BrokenPipe
            | Kind::TimedOut
            | Kind::UnexpectedEof
            | Kind::Interrupted
            | Kind::ResourceBusy
            | Kind::StaleNetworkFileHandle
            | Kind::WouldBlock => Self::Transient,
            _ => Self::Permanent,
        }
    }

    /// Returns whether an error concerns one object alone: it is missing, or may not be read. Any other error concerns all
    /// objects of the store.
    #[must_use]
    pub fn is_of_one_object(error: &Error) -> bool {
        use std::io::ErrorKind as Kind;
        if matches!(error, Error::NotFound { .. } | Error::PermissionDenied { .. }) {
            return Self::of(error) == Self::Permanent;
        }
        let mut cause = error.source();
        while let Some(at) = cause {
            if let Some(error) = at.downcast_ref::<std::io::Error>() {
                return matches!(error.kind(), Kind::NotFound | Kind::PermissionDenied | Kind::IsADirectory);
            }
            cause = at.source();
        }
        false
    }

    /// Returns whether an error says that a server sends whole objects only, no ranges.
    #[must_use]
    pub fn is_range_unsupported(error: &Error) -> bool {
        matches!(error, Error::NotSupported { .. }) || error.to_string().contains("non-partial")
    }

    /// Returns whether another attempt, now or in the next run, can succeed without any change.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Transient | Self::Exhausted)
    }
}

/// Finds the cause within an error: an input or output error, a broken connection, a status.
fn of_chain(error: &Error) -> ErrorKind {
    let text = error.to_string();
    let mut cause = error.source();
    while let Some(at) = cause {
        if let Some(error) = at.downcast_ref::<std::io::Error>() {
            return ErrorKind::of_io(error);
        }
        if at.is::<HttpError>() {
            return if was_retried(&text) { ErrorKind::Exhausted } else { ErrorKind::Transient };
        }
        cause = at.source();
    }
    match status(&text) {
        Some(507) => ErrorKind::Full,
        // The clients retry these by themselves, so it came several times.
        Some(408 | 425 | 429 | 500..) => ErrorKind::Exhausted,
        Some(_) if is_full(&text) => ErrorKind::Full,
        Some(200..300) => ErrorKind::Transient,
        Some(_) => ErrorKind::Permanent,
        None if matches!(error, Error::PermissionDenied { .. }) => ErrorKind::Permanent,
        None if is_misconfiguration(&text) => ErrorKind::Permanent,
        // A response that cannot be parsed is most often truncated.
        None => ErrorKind::Transient,
    }
}

/// object_store's text has the number of retries if there were any.
fn was_retried(text: &str) -> bool {
    text.contains(" retries, max_retries")
}

/// Returns the status of a server's response, as object_store quotes it.
fn status(text: &str) -> Option<u16> {
    let after = text.split_once("status code: ").or_else(|| text.split_once("error response: "))?.1;
    match after.get(..3)?.parse() {
        Ok(status) => Some(status),
        // An error response with a status of success.
        Err(_) => Some(200),
    }
}

/// Whether the text has an error code of a full bucket or account.
fn is_full(text: &str) -> bool {
    ["QuotaExceeded", "StorageFull", "InsufficientStorage", "AccountLimitExceeded", "NoSpaceLeft"]
        .iter()
        .any(|word| text.contains(word))
}

/// Whether the text is of an error of configuration, for which object_store has no variant of its own.
fn is_misconfiguration(text: &str) -> bool {
    ["Missing ", "not provided", "Unable to parse", "Unable to build", "Configuration", "Invalid"]
        .iter()
        .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Generic { store: "test", source: source.into() }
    }

    #[test]
    fn transient_and_permanent_errors_differ() {
        let io_error = |kind| generic(io::Error::new(kind, "x"));
        for (error, kind) in [
            (io_error(io::ErrorKind::ConnectionReset), ErrorKind::Transient),
            (io_error(io::ErrorKind::UnexpectedEof), ErrorKind::Transient),
            (io_error(io::ErrorKind::StorageFull), ErrorKind::Full),
            (io_error(io::ErrorKind::PermissionDenied), ErrorKind::Permanent),
            (generic("Server returned non-2xx status code: 503 Service Unavailable: "), ErrorKind::Exhausted),
            (generic("Server returned non-2xx status code: 507 Insufficient Storage: "), ErrorKind::Full),
            (generic("Server returned non-2xx status code: 400 Bad Request: "), ErrorKind::Permanent),
            (generic("Server returned error response: <Error>InternalError</Error>"), ErrorKind::Transient),
            (generic("Missing bucket name"), ErrorKind::Permanent),
            (Error::NotFound { path: "x".into(), source: "x".into() }, ErrorKind::Permanent),
            (Error::Precondition { path: "x".into(), source: "x".into() }, ErrorKind::Changed),
            (Error::PermissionDenied { path: "x".into(), source: "403".into() }, ErrorKind::Permanent),
        ] {
            assert_eq!(ErrorKind::of(&error), kind, "{error}");
        }
    }

    #[tokio::test]
    async fn tasks_cancelled_at_shutdown_are_not_retried() {
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        let source = task.await.expect_err("it was aborted");
        assert_eq!(ErrorKind::of(&Error::JoinError { source }), ErrorKind::Permanent);
    }
}
