//! What an object store's error means: whether another attempt may go better, and what a person should do.

use std::error::Error as _;

use object_store::{Error, client::HttpError};
use recaption_schemas::redact_text;

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Bad luck on the way: another attempt may go better.
    Transient,
    /// Bad luck, and the client tried often enough by itself.
    Exhausted,
    /// The object is not what it was when it was listed.
    Changed,
    /// No room for more bytes.
    Full,
    /// Another attempt will end the same way.
    Permanent,
}

impl ErrorKind {
    /// What `error` means.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Precondition { .. } => Self::Changed,
            Error::Generic { .. } | Error::PermissionDenied { .. } | Error::JoinError { .. } => {
                of_chain(error)
            }
            _ => Self::Permanent,
        }
    }

    /// What an error of input and output means.
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

    /// Whether an error is of one object alone: it is gone, or nobody may read it. What else fails is of the way to all.
    #[must_use]
    pub fn of_one(error: &Error) -> bool {
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

    /// Whether a server sends whole objects only, not the part that it was asked for.
    #[must_use]
    pub fn is_of_ranges(error: &Error) -> bool {
        matches!(error, Error::NotSupported { .. }) || error.to_string().contains("non-partial")
    }

    /// Whether a later attempt, now or in the next run, may go better without anybody's doing.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Transient | Self::Exhausted)
    }
}

/// Looks for what the store's client met: an input or output error, a broken connection, a status.
fn of_chain(error: &Error) -> ErrorKind {
    let text = error.to_string();
    let mut cause = error.source();
    while let Some(at) = cause {
        if let Some(error) = at.downcast_ref::<std::io::Error>() {
            return ErrorKind::of_io(error);
        }
        if at.is::<HttpError>() {
            return if was_tried_again(&text) { ErrorKind::Exhausted } else { ErrorKind::Transient };
        }
        cause = at.source();
    }
    match status(&text) {
        Some(507) => ErrorKind::Full,
        // What clients of their own retry too, so it came again and again.
        Some(408 | 425 | 429 | 500..) => ErrorKind::Exhausted,
        Some(_) if says_full(&text) => ErrorKind::Full,
        Some(200..300) => ErrorKind::Transient,
        Some(_) => ErrorKind::Permanent,
        None if matches!(error, Error::PermissionDenied { .. }) => ErrorKind::Permanent,
        None if says_misconfigured(&text) => ErrorKind::Permanent,
        // An answer that cannot be understood is most often one that was cut.
        None => ErrorKind::Transient,
    }
}

/// object_store says how often it tried, where it did.
fn was_tried_again(text: &str) -> bool {
    text.contains(" retries, max_retries")
}

/// The status that a server answered with, as object_store quotes it.
fn status(text: &str) -> Option<u16> {
    let after = text.split_once("status code: ").or_else(|| text.split_once("error response: "))?.1;
    match after.get(..3)?.parse() {
        Ok(status) => Some(status),
        // An error that came as success.
        Err(_) => Some(200),
    }
}

/// What servers answer when a bucket or an account holds all that it may.
fn says_full(text: &str) -> bool {
    ["QuotaExceeded", "StorageFull", "InsufficientStorage", "AccountLimitExceeded", "NoSpaceLeft"]
        .iter()
        .any(|word| text.contains(word))
}

/// Errors of configuration that object_store has no variant of its own for.
fn says_misconfigured(text: &str) -> bool {
    ["Missing ", "not provided", "Unable to parse", "Unable to build", "Configuration", "Invalid"]
        .iter()
        .any(|word| text.contains(word))
}

/// The error in one line for people: what to do first, then the store's user_message, without secrets and not without end.
#[must_use]
pub fn user_message(error: &Error) -> String {
    let text = error.to_string();
    let hint = match (error, ErrorKind::of(error)) {
        (_, ErrorKind::Full) => "there is no room left: make room, then run the same command again",
        (_, ErrorKind::Changed) => "the object was changed while it was read; the next run reads it anew",
        (Error::PermissionDenied { .. }, _) => {
            "access is denied: check the credentials and what they may do here"
        }
        (Error::Unauthenticated { .. }, _) => "no valid credentials: set them as this store wants them",
        _ if text.contains("NoSuchBucket") || text.contains("ContainerNotFound") => {
            "there is no such bucket or container: check its name, region and endpoint"
        }
        _ if text.contains("SignatureDoesNotMatch") || text.contains("InvalidAccessKeyId") => {
            "the credentials are wrong: check key, secret and region"
        }
        _ if text.contains("169.254.169.254") || text.contains("metadata.google.internal") => {
            "no credentials are set, and this machine has none of a cloud's own"
        }
        (_, ErrorKind::Exhausted) => "the store did not answer well, also after several attempts",
        _ => "",
    };
    let text = redact_text(&one_line(&text));
    if hint.is_empty() { text } else { format!("{hint} ({text})") }
}

/// Longest quotation of a store's message, characters.
const MAX_QUOTED_CHARS: usize = 600;

fn one_line(text: &str) -> String {
    let flat: Vec<&str> = text.split_whitespace().collect();
    let flat = flat.join(" ");
    match flat.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((at, _)) => format!("{}...", &flat[..at]),
        None => flat,
    }
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

    #[test]
    fn message_says_what_to_do_and_no_secret() {
        let error = Error::PermissionDenied {
            path: "x".into(),
            source: "https://host/b?X-Amz-Signature=secret\n refused".into(),
        };
        let message = user_message(&error);
        assert!(message.starts_with("access is denied: check"), "{message}");
        assert!(!message.contains("secret") && !message.contains('\n'), "{message}");
    }
}
