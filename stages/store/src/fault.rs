//! What an object store's error means: whether another attempt may go better, and what a person should do.

use std::error::Error as _;

use object_store::{Error, client::HttpError};
use recaption_schemas::redact_text;

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
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

impl Fault {
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
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Transient | Self::Exhausted)
    }
}

/// Looks for what the store's client met: an input or output error, a broken connection, a status.
fn of_chain(error: &Error) -> Fault {
    let text = error.to_string();
    let mut cause = error.source();
    while let Some(at) = cause {
        if let Some(error) = at.downcast_ref::<std::io::Error>() {
            return Fault::of_io(error);
        }
        if at.is::<HttpError>() {
            return if was_tried_again(&text) { Fault::Exhausted } else { Fault::Transient };
        }
        cause = at.source();
    }
    match status(&text) {
        Some(507) => Fault::Full,
        // What clients of their own retry too, so it came again and again.
        Some(408 | 425 | 429 | 500..) => Fault::Exhausted,
        Some(_) if says_full(&text) => Fault::Full,
        Some(200..300) => Fault::Transient,
        Some(_) => Fault::Permanent,
        None if matches!(error, Error::PermissionDenied { .. }) => Fault::Permanent,
        None if says_misconfigured(&text) => Fault::Permanent,
        // An answer that cannot be understood is most often one that was cut.
        None => Fault::Transient,
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

/// The error in one line for people: what to do first, then the store's words, without secrets and not without end.
#[must_use]
pub fn words(error: &Error) -> String {
    let text = error.to_string();
    let hint = match (error, Fault::of(error)) {
        (_, Fault::Full) => "there is no room left: make room, then run the same command again",
        (_, Fault::Changed) => "the object was changed while it was read; the next run reads it anew",
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
        (_, Fault::Exhausted) => "the store did not answer well, also after several attempts",
        _ => "",
    };
    let text = redact_text(&one_line(&text));
    if hint.is_empty() { text } else { format!("{hint} ({text})") }
}

/// Longest quotation of a store's words, characters.
const MOST_WORDS: usize = 600;

fn one_line(text: &str) -> String {
    let flat: Vec<&str> = text.split_whitespace().collect();
    let flat = flat.join(" ");
    match flat.char_indices().nth(MOST_WORDS) {
        Some((at, _)) => format!("{}...", &flat[..at]),
        None => flat,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Generic { store: "test", source: source.into() }
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        let io = |kind| generic(std::io::Error::new(kind, "x"));
        for (error, fault) in [
            (io(ErrorKind::ConnectionReset), Fault::Transient),
            (io(ErrorKind::UnexpectedEof), Fault::Transient),
            (io(ErrorKind::StorageFull), Fault::Full),
            (io(ErrorKind::PermissionDenied), Fault::Permanent),
            (generic("Server returned non-2xx status code: 503 Service Unavailable: "), Fault::Exhausted),
            (generic("Server returned non-2xx status code: 507 Insufficient Storage: "), Fault::Full),
            (generic("Server returned non-2xx status code: 400 Bad Request: "), Fault::Permanent),
            (generic("Server returned error response: <Error>InternalError</Error>"), Fault::Transient),
            (generic("Missing bucket name"), Fault::Permanent),
            (Error::NotFound { path: "x".into(), source: "x".into() }, Fault::Permanent),
            (Error::Precondition { path: "x".into(), source: "x".into() }, Fault::Changed),
            (Error::PermissionDenied { path: "x".into(), source: "403".into() }, Fault::Permanent),
        ] {
            assert_eq!(Fault::of(&error), fault, "{error}");
        }
    }

    #[test]
    fn words_say_what_to_do_and_no_secret() {
        let error = Error::PermissionDenied {
            path: "x".into(),
            source: "https://host/b?X-Amz-Signature=secret\n refused".into(),
        };
        let words = words(&error);
        assert!(words.starts_with("access is denied: check"), "{words}");
        assert!(!words.contains("secret") && !words.contains('\n'), "{words}");
    }
}
