//! Requests to the hub: redirects by hand, because the token is for the hub alone; a few attempts; errors in words.

use std::{error::Error as _, io, time::Duration};

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

use super::{HubSettings, STORE};
use crate::{ErrorKind, StoreSettings, install_crypto};

/// Most redirects of one request.
const REDIRECTS: usize = 5;
/// Most further attempts where an answer or a listing's page does not come; what is read is also tried again above.
const ATTEMPTS: u32 = 4;
/// Most bytes of an answer that is a list.
const LONGEST_LIST: usize = 64 << 20;
/// Most characters of the hub's own words.
const MOST_WORDS: usize = 300;

/// One request.
pub(super) struct Ask<'a> {
    /// GET or HEAD.
    pub method: Method,
    /// To where.
    pub url: Url,
    /// A `Range` header.
    pub range: Option<String>,
    /// Whether a redirect away from the hub is the answer.
    pub stay: bool,
    /// What is asked for, in errors.
    pub place: &'a str,
}

/// What came of it.
pub(super) struct Answer {
    /// The last response.
    pub response: Response,
    /// Whether the hub itself gave it.
    pub own: bool,
    /// What the hub said of the object on the way.
    pub linked: Linked,
}

/// What the hub says of an object, wherever its bytes are.
#[derive(Clone, Debug, Default)]
pub(super) struct Linked {
    /// Without quotes and `W/`.
    pub e_tag: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
}

impl Linked {
    fn learn(&mut self, headers: &HeaderMap, last: bool) {
        // The entity tag of a redirect is that of the redirect.
        let own = if last { header(headers, ETAG.as_str()) } else { None };
        let e_tag = header(headers, "x-linked-etag").or_else(|| own.filter(|_| self.e_tag.is_none()));
        if let Some(e_tag) = e_tag {
            let bare = e_tag.trim().trim_start_matches("W/").trim_matches('"');
            self.e_tag = Some(bare.to_owned()).filter(|tag| !tag.is_empty());
        }
        self.size = header(headers, "x-linked-size").and_then(|size| size.parse().ok()).or(self.size);
    }
}

impl Answer {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }

    /// What a body that is complete has.
    pub fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// `Content-Range`: first byte, byte after the last, bytes of the whole.
    pub fn content_range(&self) -> Option<(u64, u64, u64)> {
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

/// Asks the hub.
pub(super) struct Asker {
    client: Client,
    hub: HubSettings,
    settings: StoreSettings,
}

impl Asker {
    /// With these settings; nothing is asked yet.
    pub fn new(hub: HubSettings, settings: StoreSettings) -> Result<Self> {
        install_crypto();
        let client = Client::builder()
            .redirect(Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(settings.timeout)
            .read_timeout(settings.timeout)
            .user_agent(concat!("recaption/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| broken(&error))?;
        Ok(Self { client, hub, settings })
    }

    /// An address below the endpoint.
    pub fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Result<Url> {
        let mut url = self.hub.endpoint.clone();
        url.path_segments_mut().map_err(|()| generic("Invalid HF_ENDPOINT"))?.pop_if_empty().extend(parts);
        Ok(url)
    }

    /// Whether it is the hub's own address: the same scheme, host and port.
    pub fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.hub.endpoint.origin()
    }

    /// The answer to a request, whatever its status, after a few attempts where another may go better.
    pub async fn send(&self, ask: &Ask<'_>) -> Result<Answer> {
        let mut pause = self.settings.first_pause;
        let mut left = ATTEMPTS.min(self.settings.retries);
        loop {
            let answer = self.once(ask).await?;
            let status = answer.response.status();
            // The bytes' address is good for a while only: the hub gives a new one.
            let expired = !answer.own && status == StatusCode::FORBIDDEN;
            let is_retryable = matches!(status.as_u16(), 408 | 425 | 429 | 500..) && status.as_u16() != 507;
            if left == 0 || !(is_retryable || expired) {
                return Ok(answer);
            }
            left -= 1;
            let told = answer.header(RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok());
            let wait = told.map_or_else(|| pause.mul_f64(fastrand::f64()), Duration::from_secs);
            pause = (pause * 2).min(self.settings.longest_pause);
            tracing::debug!(
                place = ask.place,
                status = status.as_u16(),
                "the hub did not answer well; trying again"
            );
            tokio::time::sleep(wait.min(self.settings.longest_pause)).await;
        }
    }

    /// One attempt, along its redirects.
    async fn once(&self, ask: &Ask<'_>) -> Result<Answer> {
        let (mut url, mut linked, mut own) = (ask.url.clone(), Linked::default(), true);
        for _ in 0..=REDIRECTS {
            // Whoever was sent away does not come back with the token.
            own = own && self.is_own(&url);
            let mut request = self.client.request(ask.method.clone(), url.clone());
            request = request.header(ACCEPT_ENCODING, "identity");
            if let Some(range) = &ask.range {
                request = request.header(RANGE, range);
            }
            if let Some(authorization) = self.hub.authorization.as_ref().filter(|_| own) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = request.send().await.map_err(|error| broken(&error))?;
            let target =
                header(response.headers(), LOCATION.as_str()).filter(|_| response.status().is_redirection());
            if own {
                linked.learn(response.headers(), target.is_none());
            }
            let Some(target) = target else { return Ok(Answer { response, own, linked }) };
            let next = url.join(target).map_err(|_| invalid("it redirects to what is no address"))?;
            let safe = match next.scheme() {
                "https" => true,
                "http" => self.hub.endpoint.scheme() == "http",
                _ => false,
            };
            if !safe {
                return Err(invalid("it redirects to an address that is not https"));
            }
            if ask.stay && !self.is_own(&next) {
                return Ok(Answer { response, own, linked });
            }
            url = next;
        }
        Err(invalid(&format!("it redirects more than {REDIRECTS} times")))
    }

    /// An answer that is JSON, with its headers; tried again where the connection breaks, as nobody above does it for
    /// listings.
    pub async fn json<T: DeserializeOwned>(&self, url: Url, place: &str) -> Result<(T, HeaderMap)> {
        let mut left = ATTEMPTS.min(self.settings.retries);
        loop {
            match self.json_once(url.clone(), place).await {
                Err(error) if left > 0 && ErrorKind::of(&error) == ErrorKind::Transient => {
                    left -= 1;
                    tracing::debug!(place, error = crate::user_message(&error), "asking the hub again");
                    tokio::time::sleep(self.settings.first_pause.mul_f64(fastrand::f64())).await;
                }
                other => return other,
            }
        }
    }

    async fn json_once<T: DeserializeOwned>(&self, url: Url, place: &str) -> Result<(T, HeaderMap)> {
        let ask = Ask { method: Method::GET, url, range: None, stay: false, place };
        let mut answer = self.send(&ask).await?;
        if answer.response.status() != StatusCode::OK {
            return Err(self.refused(&answer, place));
        }
        let mut body = Vec::new();
        while let Some(bytes) = answer.response.chunk().await.map_err(|error| broken(&error))? {
            if body.len() + bytes.len() > LONGEST_LIST {
                return Err(invalid("its list is too long"));
            }
            body.extend_from_slice(&bytes);
        }
        // Where it breaks off, the connection did; what else is wrong stays wrong.
        let value = serde_json::from_slice(&body).map_err(|error| match error.is_eof() {
            true => io_error(io::ErrorKind::UnexpectedEof, "the hub's answer is cut short".into()),
            false => invalid(&error.to_string()),
        })?;
        Ok((value, answer.response.headers().clone()))
    }

    /// What a status means.
    pub fn refused(&self, answer: &Answer, place: &str) -> Error {
        let (status, path) = (answer.response.status(), place.to_owned());
        let said = self.said(answer);
        let token = match (&self.hub.authorization, answer.own) {
            (_, false) => "the server that holds the bytes refuses; the token of HF_TOKEN is not for it".to_owned(),
            (None, true) => "the dataset is gated or private, or there is none: accept its conditions on its page, \
                             and set HF_TOKEN to a token that may read it"
                .to_owned(),
            (Some(_), true) => "the dataset is gated or private, or there is none, and the token of HF_TOKEN (or of the \
                                token file) may not read it: accept the conditions on its page, and check the token"
                .to_owned(),
        };
        match status.as_u16() {
            401 => Error::Unauthenticated { path, source: format!("{token}{said} (401)").into() },
            403 => Error::PermissionDenied { path, source: format!("{token}{said} (403)").into() },
            404 | 410 => {
                Error::NotFound { path, source: format!("the hub knows none{said} ({status})").into() }
            }
            _ => generic(&format!("{place}: the hub answers with status code: {status}{said}")),
        }
    }

    /// The hub's own user_message, without the token, should it quote it.
    fn said(&self, answer: &Answer) -> String {
        let Some(text) = answer.header("x-error-message").filter(|_| answer.own) else {
            return String::new();
        };
        let mut text = redact_text(text);
        if let Some(token) = self.hub.token() {
            text = text.replace(token, "***");
        }
        format!("; it says: {}", text.chars().take(MOST_WORDS).collect::<String>())
    }
}

/// An error of the hub's that has no kind of its own.
pub(super) fn generic(what: &str) -> Error {
    Error::Generic { store: STORE, source: what.into() }
}

/// An answer that another attempt would get again.
pub(super) fn invalid(what: &str) -> Error {
    generic(&format!("Invalid answer of the hub: {what}"))
}

fn io_error(kind: io::ErrorKind, what: String) -> Error {
    Error::Generic { store: STORE, source: Box::new(std::io::Error::new(kind, what)) }
}

/// A connection that broke, as an error of input and output; without addresses, which may hold a signature.
pub(super) fn broken(error: &reqwest::Error) -> Error {
    let mut kind = if error.is_timeout() { io::ErrorKind::TimedOut } else { io::ErrorKind::ConnectionReset };
    let mut text =
        String::from(if error.is_timeout() { "no answer in time" } else { "the connection broke" });
    let mut cause = error.source();
    while let Some(at) = cause {
        let more = redact_text(&at.to_string());
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        if let Some(error) = at.downcast_ref::<std::io::Error>() {
            // A certificate that is not trusted stays so; names that are not found now may be found later.
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
