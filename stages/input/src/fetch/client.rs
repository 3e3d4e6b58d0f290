//! Address -> bytes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use chrono::Utc;
use recaption_schemas::{RejectReason, redact_text};
use recaption_store::{RetryPolicy, parse_retry_after};
use reqwest::{
    Client, Response, StatusCode,
    dns::Resolve,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::{Host, Url};

use super::{
    address::is_public,
    resolve::{Forbidden, Guard, SystemResolver},
    robots,
};

/// Longest pause before the second attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause before any attempt, also where a server asks for more with `Retry-After`.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How long a connection is kept that nobody uses. Lists have many hosts that are asked once: kept for long, their
/// connections use up the descriptors that a process may have.
const IDLE: Duration = Duration::from_secs(1);
/// Most characters of an address in an error.
const MOST_QUOTED: usize = 200;

/// How images are fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchSettings {
    /// What one attempt may take, body included.
    pub timeout: Duration,
    /// Further attempts where another may go better.
    pub retries: u32,
    /// Largest image, bytes.
    pub max_bytes: u64,
    /// Images fetched at the same time, of all lists.
    pub concurrency: usize,
    /// Requests to one host at the same time, of all lists.
    pub per_host: usize,
    /// How this program calls itself.
    pub user_agent: String,
    /// Whether addresses of the own network may be asked.
    pub allow_private: bool,
    /// Directives of `X-Robots-Tag` on which an image is left alone.
    pub opt_out: Vec<String>,
    /// Redirects followed, at most.
    pub max_redirects: usize,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(20),
            retries: 2,
            max_bytes: 32 << 20,
            concurrency: 64,
            per_host: 8,
            user_agent: concat!("recaption/", env!("CARGO_PKG_VERSION")).to_owned(),
            allow_private: false,
            opt_out: ["noai", "noimageai", "noindex", "noimageindex"].map(str::to_owned).to_vec(),
            max_redirects: 5,
        }
    }
}

/// Why an image was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Bad luck, also after all attempts.
    #[error("{what} ({attempts} attempts)")]
    Failed {
        /// What happened last.
        what: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Another attempt would end the same way.
    #[error("{0}")]
    Refused(String),
    /// The server wants no machine to use it.
    #[error("X-Robots-Tag says {0}")]
    OptedOut(String),
    /// More bytes than allowed.
    #[error("{0}")]
    TooLarge(String),
}

impl FetchError {
    /// The reason by which it is counted.
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

/// An image as it was served.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// All bytes.
    pub bytes: Bytes,
    /// `Content-Type`, without parameters, lower case.
    pub content_type: Option<String>,
}

/// How one attempt ended.
enum Attempt {
    Done(Fetched),
    Redirect(Url),
    Again { what: String, after: Option<Duration> },
    Never(FetchError),
}

/// Fetches images. One per run; cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    settings: Arc<FetchSettings>,
    places: Arc<Semaphore>,
    hosts: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// A place among the images that are fetched at the same time.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A client with these settings. No proxy is used: behind one it could not be seen who is asked.
    ///
    /// # Errors
    /// When TLS cannot be set up, or the agent's name is no header.
    pub fn new(settings: FetchSettings) -> Result<Self, String> {
        Self::with_resolver(settings, Arc::new(SystemResolver))
    }

    /// As [`Fetcher::new`], with names resolved by `resolver`. What it finds is judged all the same.
    ///
    /// # Errors
    /// As [`Fetcher::new`].
    pub fn with_resolver(settings: FetchSettings, resolver: Arc<dyn Resolve>) -> Result<Self, String> {
        recaption_store::install_crypto();
        let resolver = Guard { inner: resolver, allow_private: settings.allow_private };
        let client = Client::builder()
            .user_agent(&settings.user_agent)
            .no_proxy()
            .redirect(Policy::none())
            .dns_resolver(Arc::new(resolver))
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|e| format!("no client for fetching images can be made: {e}"))?;
        let places = Arc::new(Semaphore::new(settings.concurrency.max(1)));
        Ok(Self { client, settings: Arc::new(settings), places, hosts: Arc::default() })
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &FetchSettings {
        &self.settings
    }

    /// Waits for a place, to be kept until the image's bytes are somebody else's.
    pub async fn place(&self) -> Place {
        // Never closed.
        Place { _permit: Arc::clone(&self.places).acquire_owned().await.ok() }
    }

    /// Fetches one image, with redirects and further attempts.
    ///
    /// # Errors
    /// See [`FetchError`]; no text of it holds a URL's query or user info.
    pub async fn fetch(&self, text: &str) -> Result<Fetched, FetchError> {
        let mut url = parse(text)?;
        let mut budget = RetryPolicy::new(self.settings.retries, FIRST_BACKOFF, MAX_BACKOFF).budget();
        let (mut attempts, mut redirects) = (0, 0);
        loop {
            match self.attempt(&url).await {
                Attempt::Done(fetched) => return Ok(fetched),
                Attempt::Never(error) => return Err(error),
                Attempt::Redirect(next) => {
                    redirects += 1;
                    if redirects > self.settings.max_redirects {
                        return Err(FetchError::Refused(format!("more than {} redirects", redirects - 1)));
                    }
                    url = next;
                }
                Attempt::Again { what, after } => {
                    attempts += 1;
                    let Some(pause) = budget.next_pause(after) else {
                        return Err(FetchError::Failed { what: redact_text(&what), attempts });
                    };
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn attempt(&self, url: &Url) -> Attempt {
        if let Err(error) = self.may_ask(url) {
            return Attempt::Never(error);
        }
        let host = self.host(url);
        let Ok(_permit) = host.acquire().await else {
            return Attempt::Again { what: "the program ends".into(), after: None };
        };
        let response = match self.client.get(url.clone()).send().await {
            Ok(response) => response,
            Err(error) => return transport(&error),
        };
        let status = response.status();
        if status.is_redirection() {
            return redirect(url, &response);
        }
        if matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        ) || status.is_server_error()
        {
            let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            return Attempt::Again {
                what: format!("status {status}"),
                after: after.and_then(|value| parse_retry_after(value, Utc::now())),
            };
        }
        if !status.is_success() {
            return Attempt::Never(FetchError::Refused(format!("status {status}")));
        }
        let settings = &self.settings;
        if let Some(directive) = robots::refusal(response.headers(), &settings.user_agent, &settings.opt_out)
        {
            return Attempt::Never(FetchError::OptedOut(directive));
        }
        self.body(response).await
    }

    /// Reads a body within the limit.
    async fn body(&self, mut response: Response) -> Attempt {
        let most = self.settings.max_bytes;
        let announced = response.content_length();
        if let Some(bytes) = announced.filter(|bytes| *bytes > most) {
            return Attempt::Never(FetchError::TooLarge(format!(
                "{bytes} bytes are announced, {most} allowed"
            )));
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| {
            let kind = value.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
            Some(kind)
        });
        let mut bytes = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if (bytes.len() + piece.len()) as u64 > most => {
                    return Attempt::Never(FetchError::TooLarge(format!("more than {most} bytes are sent")));
                }
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => break,
                Err(error) => return transport(&error),
            }
        }
        if let Some(announced) = announced.filter(|announced| *announced != bytes.len() as u64) {
            let what = format!("the body ended after {} of {announced} bytes", bytes.len());
            return Attempt::Again { what, after: None };
        }
        Attempt::Done(Fetched { bytes: bytes.freeze(), content_type })
    }

    /// Whether an address may be asked, as far as it says so itself; names are judged when they are resolved.
    fn may_ask(&self, url: &Url) -> Result<(), FetchError> {
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return Err(FetchError::Refused("no host".into())),
        };
        match literal {
            Some(address) if !self.settings.allow_private && !is_public(address) => {
                Err(FetchError::Refused(format!("{address} is not an address of the public internet")))
            }
            _ => Ok(()),
        }
    }

    /// Places at a host, shared by everybody who asks it now.
    fn host(&self, url: &Url) -> Arc<Semaphore> {
        let name = url.host_str().unwrap_or_default();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(name).and_then(Weak::upgrade) {
            return host;
        }
        // Hosts that nobody asks any more are forgotten, before the map grows.
        if hosts.len() == hosts.capacity() {
            hosts.retain(|_, host| host.strong_count() > 0);
        }
        let host = Arc::new(Semaphore::new(self.settings.per_host.max(1)));
        hosts.insert(name.to_owned(), Arc::downgrade(&host));
        host
    }
}

fn parse(text: &str) -> Result<Url, FetchError> {
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

/// An address that may be malformed, without what may be secret: where user info ends cannot be told then, nor is there
/// always a `://` to tell it by.
fn quoted(text: &str) -> String {
    let text = text.trim().split(['?', '#']).next().unwrap_or_default();
    let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    text.chars().take(MOST_QUOTED).collect()
}

fn redirect(from: &Url, response: &Response) -> Attempt {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let Some(location) = location else {
        return Attempt::Never(FetchError::Refused(format!("status {} without a place", response.status())));
    };
    match from.join(location).map(|url| parse(url.as_str())) {
        Ok(Ok(url)) => Attempt::Redirect(url),
        Ok(Err(error)) => Attempt::Never(error),
        Err(_) => Attempt::Never(FetchError::Refused("a redirect to no address".into())),
    }
}

fn transport(error: &reqwest::Error) -> Attempt {
    let mut what = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(at) = cause {
        if at.is::<Forbidden>() {
            return Attempt::Never(FetchError::Refused(at.to_string()));
        }
        // The innermost says it best.
        what = at.to_string();
        cause = at.source();
    }
    if error.is_builder() {
        return Attempt::Never(FetchError::Refused(what));
    }
    if error.is_timeout() {
        what = "no answer in time".into();
    }
    Attempt::Again { what, after: None }
}

#[cfg(test)]
mod tests;
