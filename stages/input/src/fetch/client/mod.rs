//! URL -> bytes: one client for all lists of a run, with its permits, retries and redirects.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::BytesMut;
use chrono::Utc;
use recaption_schemas::redact_text;
use recaption_store::{RetryPolicy, parse_retry_after};
use reqwest::{
    Client, Response, StatusCode,
    dns::Resolve,
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect::Policy,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::{Host, Url};

use super::{
    address::is_public,
    resolve::{PublicResolver, SystemResolver},
    response::{Attempt, FetchError, Fetched, parse, redirect, transport_error},
    robots,
    settings::FetchSettings,
};

/// Longest pause before the second attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause before any attempt, also where a server asks for more with `Retry-After`.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Time after which an idle connection is closed. Lists name many hosts with one image each, whose connections would use up
/// the file descriptors of the process.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Fetches images. Clones share connections and limits.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
    settings: Arc<FetchSettings>,
    permits: Arc<Semaphore>,
    hosts: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

/// A permit to hold one image between its request and its consumer. See [`FetchSettings::concurrency`].
#[derive(Debug)]
pub struct FetchPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Creates a client. It uses no proxy: behind one the address of a server could not be checked.
    ///
    /// # Errors
    /// When TLS cannot be set up, or the user agent is not a valid header value.
    pub fn new(settings: FetchSettings) -> Result<Self, String> {
        Self::with_resolver(settings, Arc::new(SystemResolver))
    }

    /// Creates a client that resolves names with `resolver`. The addresses that it returns are checked all the same.
    ///
    /// # Errors
    /// As [`Fetcher::new`].
    pub fn with_resolver(settings: FetchSettings, resolver: Arc<dyn Resolve>) -> Result<Self, String> {
        recaption_store::install_crypto();
        let resolver = PublicResolver {
            inner: resolver,
            allow_private: settings.allow_private,
            setting: settings.allow_private_setting,
        };
        let client = Client::builder()
            .user_agent(&settings.user_agent)
            .no_proxy()
            .redirect(Policy::none())
            .dns_resolver(Arc::new(resolver))
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build()
            .map_err(|e| format!("cannot create an HTTP client: {e}"))?;
        let permits = Arc::new(Semaphore::new(settings.concurrency.max(1)));
        Ok(Self { client, settings: Arc::new(settings), permits, hosts: Arc::default() })
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &FetchSettings {
        &self.settings
    }

    /// Waits for a permit to fetch one image. It is held until the image's bytes were sent on.
    pub async fn permit(&self) -> FetchPermit {
        // The semaphore is never closed.
        FetchPermit { _permit: Arc::clone(&self.permits).acquire_owned().await.ok() }
    }

    /// Fetches one image, following redirects and retrying transient failures.
    ///
    /// # Errors
    /// See [`FetchError`]. Messages hold neither query nor user info of a URL.
    pub async fn fetch(&self, url: &str) -> Result<Fetched, FetchError> {
        let mut url = parse(url)?;
        let mut budget = RetryPolicy::new(self.settings.retries, FIRST_BACKOFF, MAX_BACKOFF).budget();
        let (mut attempts, mut redirects) = (0, 0);
        loop {
            match self.attempt(&url).await {
                Attempt::Done(fetched) => return Ok(fetched),
                Attempt::Failed(error) => return Err(error),
                Attempt::Redirect(next) => {
                    redirects += 1;
                    if redirects > self.settings.max_redirects {
                        return Err(FetchError::Refused(format!("more than {} redirects", redirects - 1)));
                    }
                    url = next;
                }
                Attempt::Retry { error, after } => {
                    attempts += 1;
                    let Some(pause) = budget.next_pause(after) else {
                        return Err(FetchError::Failed { what: redact_text(&error), attempts });
                    };
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn attempt(&self, url: &Url) -> Attempt {
        if let Err(error) = self.check_address(url) {
            return Attempt::Failed(error);
        }
        let host = self.host(url);
        let Ok(_permit) = host.acquire().await else {
            return Attempt::Retry { error: "the client is shutting down".into(), after: None };
        };
        let response = match self.client.get(url.clone()).send().await {
            Ok(response) => response,
            Err(error) => return transport_error(&error),
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
            return Attempt::Retry {
                error: format!("status {status}"),
                after: after.and_then(|value| parse_retry_after(value, Utc::now())),
            };
        }
        if !status.is_success() {
            return Attempt::Failed(FetchError::Refused(format!("status {status}")));
        }
        let settings = &self.settings;
        if let Some(directive) = robots::opt_out(response.headers(), &settings.user_agent, &settings.opt_out)
        {
            return Attempt::Failed(FetchError::OptedOut(directive));
        }
        self.body(response).await
    }

    /// Reads a body of at most [`FetchSettings::max_bytes`].
    async fn body(&self, mut response: Response) -> Attempt {
        let limit = self.settings.max_bytes;
        let announced = response.content_length();
        if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
            return Attempt::Failed(FetchError::TooLarge(format!(
                "{bytes} bytes are announced, {limit} allowed"
            )));
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| {
            let kind = value.to_str().ok()?.split(';').next()?.trim().to_ascii_lowercase();
            Some(kind)
        });
        let mut bytes = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if (bytes.len() + piece.len()) as u64 > limit => {
                    return Attempt::Failed(FetchError::TooLarge(format!(
                        "more than {limit} bytes are sent"
                    )));
                }
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => break,
                Err(error) => return transport_error(&error),
            }
        }
        if let Some(announced) = announced.filter(|announced| *announced != bytes.len() as u64) {
            let error = format!("the body ended after {} of {announced} bytes", bytes.len());
            return Attempt::Retry { error, after: None };
        }
        Attempt::Done(Fetched { bytes: bytes.freeze(), content_type })
    }

    /// Refuses a literal address outside the public internet. Names are checked when they are resolved.
    fn check_address(&self, url: &Url) -> Result<(), FetchError> {
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return Err(FetchError::Refused("no host".into())),
        };
        match literal {
            Some(address) if !self.settings.allow_private && !is_public(address) => {
                let setting = self.settings.allow_private_setting;
                Err(FetchError::Refused(format!(
                    "{address} is not an address of the public internet; set {setting} = true to fetch from it"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Returns the semaphore of a host, shared by all its requests.
    fn host(&self, url: &Url) -> Arc<Semaphore> {
        let name = url.host_str().unwrap_or_default();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(name).and_then(Weak::upgrade) {
            return host;
        }
        // Forgets hosts without requests before the map grows.
        if hosts.len() == hosts.capacity() {
            hosts.retain(|_, host| host.strong_count() > 0);
        }
        let host = Arc::new(Semaphore::new(self.settings.per_host.max(1)));
        hosts.insert(name.to_owned(), Arc::downgrade(&host));
        host
    }
}

#[cfg(test)]
mod tests;
