//! Responses and failures of one request: what is an image, what is retried, and what is final.

use std::time::Duration;

use bytes::Bytes;
use recaption_schemas::RejectReason;
use reqwest::{Response, header::LOCATION};
use url::Url;

use super::resolve::Forbidden;

/// Most characters of a URL in an error.
const MAX_URL_IN_ERROR: usize = 200;

/// Why an image was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A transient failure in every attempt.
    #[error("{what} ({attempts} attempts)")]
    Failed {
        /// The last failure.
        what: String,
        /// Number of attempts.
        attempts: u32,
    },
    /// A permanent failure: the server's answer, or a URL that is not fetched.
    #[error("{0}")]
    Refused(String),
    /// The server opts out of use by machines, with this directive.
    #[error("X-Robots-Tag says {0}")]
    OptedOut(String),
    /// More bytes than the limit.
    #[error("{0}")]
    TooLarge(String),
}

impl FetchError {
    /// Returns the reason of the sample's reject.
    #[must_use]
    pub fn reason(&self) -> RejectReason {
        match self {
            Self::Failed { .. } => RejectReason::FetchFailed,
            Self::Refused(_) => RejectReason::UrlRefused,
            Self::OptedOut(_) => RejectReason::OptedOut,
            Self::TooLarge(_) => RejectReason::TooLarge,
        }
    }
}

/// The body of a response.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// All bytes.
    pub bytes: Bytes,
    /// `Content-Type`, without parameters, lower case.
    pub content_type: Option<String>,
}

/// The outcome of one request.
pub(super) enum Attempt {
    /// An image.
    Done(Fetched),
    /// A redirect to another URL that may be fetched.
    Redirect(Url),
    /// A transient failure; `after` is the server's `Retry-After`.
    Retry { error: String, after: Option<Duration> },
    /// A permanent failure.
    Failed(FetchError),
}

/// Parses a URL that may be fetched.
///
/// # Errors
/// [`FetchError::Refused`] for a malformed URL, another scheme than http and https, and user info.
pub(super) fn parse(text: &str) -> Result<Url, FetchError> {
    let refused = |what: &str| FetchError::Refused(format!("{}: {what}", quoted(text)));
    let url = Url::parse(text.trim()).map_err(|e| refused(&e.to_string()))?;
    match url.scheme() {
        "http" | "https" => {}
        scheme => return Err(refused(&format!("`{scheme}` is not fetched, only http and https"))),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("addresses with a user's name are not fetched"));
    }
    Ok(url)
}

/// Returns a URL for an error message, without query and user info. The URL may be malformed, so user info is cut by the last
/// `@`, with or without a `://` before it.
fn quoted(text: &str) -> String {
    let text = text.trim().split(['?', '#']).next().unwrap_or_default();
    let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    text.chars().take(MAX_URL_IN_ERROR).collect()
}

/// Returns the outcome of a redirect status.
pub(super) fn redirect(from: &Url, response: &Response) -> Attempt {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let Some(location) = location else {
        return Attempt::Failed(FetchError::Refused(format!(
            "status {}: redirect without a Location header",
            response.status()
        )));
    };
    match from.join(location).map(|url| parse(url.as_str())) {
        Ok(Ok(url)) => Attempt::Redirect(url),
        Ok(Err(error)) => Attempt::Failed(error),
        Err(_) => Attempt::Failed(FetchError::Refused("redirect to an invalid URL".into())),
    }
}

/// Returns the outcome of a request that got no response.
pub(super) fn transport_error(error: &reqwest::Error) -> Attempt {
    let mut what = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(at) = cause {
        if at.is::<Forbidden>() {
            return Attempt::Failed(FetchError::Refused(at.to_string()));
        }
        // The innermost error is the most specific.
        what = at.to_string();
        cause = at.source();
    }
    if error.is_builder() {
        return Attempt::Failed(FetchError::Refused(what));
    }
    if error.is_timeout() {
        what = "no answer in time".into();
    }
    Attempt::Retry { error: what, after: None }
}
