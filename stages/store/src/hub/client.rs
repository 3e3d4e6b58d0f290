//! Requests to the hub. Redirects are followed here, because the token is for the hub alone.

use std::{error::Error as _, io};

use chrono::Utc;
use object_store::{Error, HeaderMap, Result};
use recaption_schemas::redact_text;
use reqwest::{
    Client, Method, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE, RETRY_AFTER,
    },
    redirect::Policy,
};
use serde::de::DeserializeOwned;
use url::Url;

use super::address::HubSettings;
use crate::{ErrorKind, StoreSettings, install_crypto, parse_retry_after};

/// The store's name in errors.
const STORE: &str = "Hugging Face hub";
/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Most further attempts after a transient status or a broken listing. Bodies are retried by the store above.
const MAX_RETRIES: u32 = 4;
/// Largest JSON response, in bytes.
const MAX_JSON_BYTES: usize = 64 << 20;
/// Longest quotation of the hub's own error, in characters.
const MAX_QUOTED_CHARS: usize = 300;

/// A request.
pub(super) struct HubRequest<'a> {
    /// GET or HEAD.
    pub(super) method: Method,
    /// The URL, on the hub.
    pub(super) url: Url,
    /// Value of the `Range` header.
    pub(super) range: Option<String>,
    /// Whether a redirect to another server is returned instead of followed.
    pub(super) stop_at_redirect: bool,
    /// The object's canonical URL, for errors.
    pub(super) object: &'a str,
}

/// A response, after redirects.
pub(super) struct HubResponse {
    /// The last response.
    pub(super) response: Response,
    /// Whether it came from the hub itself.
    pub(super) from_hub: bool,
    /// What the hub's own responses say about the object.
    pub(super) object: ObjectHeaders,
}

/// The hub's headers about an object, whichever server has its bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectHeaders {
    /// Entity tag, without quotes and `W/`.
    pub(super) e_tag: Option<String>,
    /// Size in bytes.
    pub(super) size: Option<u64>,
}

impl ObjectHeaders {
    /// Adds the headers of a response; `is_last` unless it is a redirect.
    fn update(&mut self, headers: &HeaderMap, is_last: bool) {
        // The entity tag of a redirect is that of the redirect.
        let own = if is_last { header(headers, ETAG.as_str()) } else { None };
        let e_tag = header(headers, "x-linked-etag").or_else(|| own.filter(|_| self.e_tag.is_none()));
        if let Some(e_tag) = e_tag {
            let bare = e_tag.trim().trim_start_matches("W/").trim_matches('"');
            self.e_tag = Some(bare.to_owned()).filter(|tag| !tag.is_empty());
        }
        self.size = header(headers, "x-linked-size").and_then(|size| size.parse().ok()).or(self.size);
    }
}

impl HubResponse {
    /// Returns a header's text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }

    /// Returns the length of the body in bytes.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// Returns `Content-Range` as first byte, end (exclusive) and size of the whole object; `0, 0, size` of a range that
    /// cannot be satisfied.
    pub(super) fn content_range(&self) -> Option<(u64, u64, u64)> {
        let range = self.header(CONTENT_RANGE.as_str())?.trim().strip_prefix("bytes ")?;
        let (bytes, size) = range.split_once('/')?;
        let size = size.parse().ok()?;
        if bytes == "*" {
            return Some((0, 0, size));
        }
        let (first, last) = bytes.split_once('-')?;
        let (first, end) = (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
        (first < end && end <= size).then_some((first, end, size))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An HTTP client of the hub.
pub(super) struct HubClient {
    client: Client,
    hub: HubSettings,
    settings: StoreSettings,
}

impl HubClient {
    /// Returns a client; nothing is sent yet.
    ///
    /// # Errors
    /// Returns an error when TLS cannot be set up.
    pub(super) fn new(hub: HubSettings, settings: StoreSettings) -> Result<Self> {
        install_crypto();
        let client = Client::builder()
            .redirect(Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(settings.timeout)
            .read_timeout(settings.timeout)
            .user_agent(concat!("recaption/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| transport_error(&error))?;
        Ok(Self { client, hub, settings })
    }

    /// Returns the URL of a path below the endpoint.
    pub(super) fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Result<Url> {
        let mut url = self.hub.endpoint.clone();
        url.path_segments_mut().map_err(|()| generic("Invalid HF_ENDPOINT"))?.pop_if_empty().extend(parts);
        Ok(url)
    }

    /// Returns whether a URL is the hub's own: the same scheme, host and port.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.hub.endpoint.origin()
    }

    /// Returns the response to a request, whatever its status, after a few attempts where its status is transient.
    pub(super) async fn send(&self, request: &HubRequest<'_>) -> Result<HubResponse> {
        let mut budget = self.settings.retry.at_most(MAX_RETRIES).budget();
        loop {
            let response = self.send_once(request).await?;
            let status = response.response.status();
            // The signed URL of the bytes expires: the hub redirects to a new one.
            let expired = !response.from_hub && status == StatusCode::FORBIDDEN;
            let is_retryable = matches!(status.as_u16(), 408 | 425 | 429 | 500..) && status.as_u16() != 507;
            if !(is_retryable || expired) {
                return Ok(response);
            }
            let retry_after = response.header(RETRY_AFTER.as_str());
            let retry_after = retry_after.and_then(|value| parse_retry_after(value, Utc::now()));
            let Some(pause) = budget.next_pause(retry_after) else { return Ok(response) };
            tracing::debug!(
                object = request.object,
                status = status.as_u16(),
                "hub request failed; retrying"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends a request once and follows its redirects.
    async fn send_once(&self, request: &HubRequest<'_>) -> Result<HubResponse> {
        let (mut url, mut object, mut own) = (request.url.clone(), ObjectHeaders::default(), true);
        for _ in 0..=MAX_REDIRECTS {
            // After a redirect to another server the token is not sent any more, even back to the hub.
            own = own && self.is_own(&url);
            let mut builder = self.client.request(request.method.clone(), url.clone());
            builder = builder.header(ACCEPT_ENCODING, "identity");
            if let Some(range) = &request.range {
                builder = builder.header(RANGE, range);
            }
            if let Some(authorization) = self.hub.authorization.as_ref().filter(|_| own) {
                builder = builder.header(AUTHORIZATION, authorization.clone());
            }
            let response = builder.send().await.map_err(|error| transport_error(&error))?;
            let target =
                header(response.headers(), LOCATION.as_str()).filter(|_| response.status().is_redirection());
            if own {
                object.update(response.headers(), target.is_none());
            }
            let Some(target) = target else { return Ok(HubResponse { response, from_hub: own, object }) };
            let next = url.join(target).map_err(|_| invalid_response("redirect to an invalid URL"))?;
            let safe = match next.scheme() {
                "https" => true,
                "http" => self.hub.endpoint.scheme() == "http",
                _ => false,
            };
            if !safe {
                return Err(invalid_response("redirect to a URL that is not https"));
            }
            if request.stop_at_redirect && !self.is_own(&next) {
                return Ok(HubResponse { response, from_hub: own, object });
            }
            url = next;
        }
        Err(invalid_response(&format!("redirects more than {MAX_REDIRECTS} times")))
    }

    /// Returns a JSON response and its headers. Broken connections are retried here, as listings have no store above that
    /// does.
    pub(super) async fn json<T: DeserializeOwned>(&self, url: Url, object: &str) -> Result<(T, HeaderMap)> {
        let mut budget = self.settings.retry.at_most(MAX_RETRIES).budget();
        loop {
            let error = match self.json_once(url.clone(), object).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let transient = ErrorKind::of(&error) == ErrorKind::Transient;
            let Some(pause) = transient.then(|| budget.next_pause(None)).flatten() else { return Err(error) };
            tracing::debug!(object, error = crate::user_message(&error), "hub request failed; retrying");
            tokio::time::sleep(pause).await;
        }
    }

    async fn json_once<T: DeserializeOwned>(&self, url: Url, object: &str) -> Result<(T, HeaderMap)> {
        let request = HubRequest { method: Method::GET, url, range: None, stop_at_redirect: false, object };
        let mut response = self.send(&request).await?;
        if response.response.status() != StatusCode::OK {
            return Err(self.status_error(&response, object));
        }
        let mut body = Vec::new();
        while let Some(bytes) = response.response.chunk().await.map_err(|error| transport_error(&error))? {
            if body.len() + bytes.len() > MAX_JSON_BYTES {
                return Err(invalid_response("its JSON is too large"));
            }
            body.extend_from_slice(&bytes);
        }
        // A truncated document is a broken connection; any other error is permanent.
        let value = serde_json::from_slice(&body).map_err(|error| match error.is_eof() {
            true => io_error(io::ErrorKind::UnexpectedEof, "the hub's response is truncated".into()),
            false => invalid_response(&error.to_string()),
        })?;
        Ok((value, response.response.headers().clone()))
    }

    /// Returns the error for a response with an unexpected status.
    pub(super) fn status_error(&self, response: &HubResponse, object: &str) -> Error {
        let (status, path) = (response.response.status(), object.to_owned());
        let detail = self.error_detail(response);
        let kind = if object.starts_with("hf://datasets/") { "dataset" } else { "model" };
        let token = match (&self.hub.authorization, response.from_hub) {
            (_, false) => {
                "the server that has the bytes refused the request; HF_TOKEN is not sent to it".to_owned()
            }
            (None, true) => format!(
                "the {kind} is gated, private or does not exist: accept its conditions (licence) on its page, and set \
                 HF_TOKEN to a token that may read it"
            ),
            (Some(_), true) => format!(
                "the {kind} is gated, private or does not exist, and the token of HF_TOKEN (or of the token file) may \
                 not read it: accept the conditions (licence) on its page, and check the token"
            ),
        };
        match status.as_u16() {
            401 => Error::Unauthenticated { path, source: format!("{token}{detail} (401)").into() },
            403 => Error::PermissionDenied { path, source: format!("{token}{detail} (403)").into() },
            404 | 410 => {
                Error::NotFound { path, source: format!("not found on the hub{detail} ({status})").into() }
            }
            _ => generic(&format!("{object}: the hub's response has status code: {status}{detail}")),
        }
    }

    /// Returns the hub's own error message with the token redacted, empty if there is none.
    fn error_detail(&self, response: &HubResponse) -> String {
        let Some(text) = response.header("x-error-message").filter(|_| response.from_hub) else {
            return String::new();
        };
        let mut text = redact_text(text);
        if let Some(token) = self.hub.token() {
            text = text.replace(token, "***");
        }
        format!(": {}", text.chars().take(MAX_QUOTED_CHARS).collect::<String>())
    }
}

/// Returns an error of the hub that has no variant of its own.
pub(super) fn generic(what: &str) -> Error {
    Error::Generic { store: STORE, source: what.into() }
}

/// Returns the error for a response that breaks the hub's protocol. It is permanent: see [`ErrorKind::of`].
pub(super) fn invalid_response(what: &str) -> Error {
    generic(&format!("Invalid response of the hub: {what}"))
}

fn io_error(kind: io::ErrorKind, what: String) -> Error {
    Error::Generic { store: STORE, source: Box::new(std::io::Error::new(kind, what)) }
}

/// Returns the error for a broken connection as an input or output error, without URLs, which may hold a signature.
pub(super) fn transport_error(error: &reqwest::Error) -> Error {
    let mut kind = if error.is_timeout() { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionReset };
    let mut text =
        String::from(if error.is_timeout() { "no response in time" } else { "the connection broke" });
    let mut cause = error.source();
    while let Some(at) = cause {
        let more = redact_text(&at.to_string());
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        if let Some(error) = at.downcast_ref::<std::io::Error>() {
            // An untrusted certificate stays untrusted; a name that is not found now may be found later.
            match error.kind() {
                io::ErrorKind::InvalidData => kind = io::ErrorKind::InvalidData,
                known if ErrorKind::of_io(error) == ErrorKind::Transient => kind = known,
                _ => {}
            }
        }
        cause = at.source();
    }
    io_error(kind, text)
}
