//! Clients of the clouds and of web servers, built from a URL and the environment.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, HeaderMap, HeaderValue, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{HttpClient, HttpConnector},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
};
use percent_encoding::percent_decode_str;
use recaption_schemas::redact_url;
use url::Url;

use crate::{StoreError, StoreSettings, aws_profile, environment::Variable, listing::FilteredListings};

/// Installs the process's cryptography for TLS. Later calls change nothing.
pub fn install_crypto() {
    // A later call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Builds a client.
pub(crate) type Build = fn(&Url, &StoreSettings, Variable<'_>) -> Result<Arc<dyn ObjectStore>, BuildError>;

/// Why a client cannot be built.
#[derive(Debug)]
pub(crate) enum BuildError {
    /// The environment's settings cannot be used; says what to do.
    Settings(String),
    /// object_store's own error.
    Store(object_store::Error),
}

impl BuildError {
    /// Adds the store's URL, which must be redacted.
    pub(crate) fn at(self, url: String) -> StoreError {
        match self {
            Self::Settings(what) => StoreError::Url { url, what },
            Self::Store(source) => StoreError::Store { url, source },
        }
    }
}

impl From<object_store::Error> for BuildError {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

/// Longest duration of a whole request, body included. Longer bodies are resumed where they stopped.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest wait for a connection to a web server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of a cloud's client: that of `name` in the environment, else [`REQUEST_TIMEOUT`].
fn request_timeout(variable: Variable<'_>, name: &str) -> String {
    variable(name).unwrap_or_else(|| format!("{} seconds", REQUEST_TIMEOUT.as_secs()))
}

/// The retries that object_store's clients make by themselves, where a status asks for it.
fn client_retries(settings: &StoreSettings) -> RetryConfig {
    RetryConfig {
        max_retries: settings.retry.retries as usize,
        backoff: BackoffConfig {
            init_backoff: settings.retry.first_backoff,
            max_backoff: settings.retry.max_backoff,
            ..BackoffConfig::default()
        },
        ..RetryConfig::default()
    }
}

/// Refuses an unencrypted endpoint unless `allowed` says otherwise: object_store would fail at every request, without
/// saying why.
fn check_endpoint(endpoint: Option<&str>, allowed: Option<&str>, name: &str) -> Result<(), BuildError> {
    let Some(endpoint) =
        endpoint.filter(|endpoint| endpoint.trim().to_ascii_lowercase().starts_with("http://"))
    else {
        return Ok(());
    };
    let allowed = allowed.unwrap_or_default().to_ascii_lowercase();
    if matches!(allowed.as_str(), "1" | "true" | "on" | "yes" | "y") {
        return Ok(());
    }
    let endpoint = redact_url(endpoint);
    Err(BuildError::Settings(format!(
        "the endpoint {endpoint} is not encrypted; set {name}=true to allow http"
    )))
}

/// Builds a client of S3 or a compatible store.
///
/// # Errors
/// Returns an error for an unusable AWS profile, an `http://` endpoint without `AWS_ALLOW_HTTP`, or settings that
/// object_store refuses.
pub(crate) fn s3(
    url: &Url,
    settings: &StoreSettings,
    variable: Variable<'_>,
) -> Result<Arc<dyn ObjectStore>, BuildError> {
    let builder = aws_profile::apply(AmazonS3Builder::from_env(), variable).map_err(|what| {
        object_store::Error::Unauthenticated { path: redact_url(url.as_str()), source: what.into() }
    })?;
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key));
    let allowed = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    check_endpoint(endpoint.as_deref(), allowed.as_deref(), "AWS_ALLOW_HTTP")?;
    let builder = builder.with_url(url.as_str()).with_retry(client_retries(settings));
    let builder = builder.with_http_connector(FilteredListings::default());
    let key = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
    Ok(Arc::new(builder.with_config(key, request_timeout(variable, "AWS_TIMEOUT")).build()?))
}

/// Builds a client of Google Cloud Storage.
///
/// # Errors
/// Returns an error for settings that object_store refuses.
pub(crate) fn gcs(
    url: &Url,
    settings: &StoreSettings,
    variable: Variable<'_>,
) -> Result<Arc<dyn ObjectStore>, BuildError> {
    let builder =
        GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(client_retries(settings));
    let builder = builder.with_http_connector(FilteredListings::default());
    let key = GoogleConfigKey::Client(ClientConfigKey::Timeout);
    Ok(Arc::new(builder.with_config(key, request_timeout(variable, "GOOGLE_TIMEOUT")).build()?))
}

/// Builds a client of Azure Blob Storage.
///
/// # Errors
/// Returns an error for an `http://` endpoint without `AZURE_ALLOW_HTTP`, or settings that object_store refuses.
pub(crate) fn azure(
    url: &Url,
    settings: &StoreSettings,
    variable: Variable<'_>,
) -> Result<Arc<dyn ObjectStore>, BuildError> {
    let builder = MicrosoftAzureBuilder::from_env();
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    let emulated = builder.get_config_value(&AzureConfigKey::UseEmulator);
    let allowed = builder.get_config_value(&AzureConfigKey::Client(ClientConfigKey::AllowHttp));
    // The emulator is asked without encryption anyway.
    if emulated.as_deref() != Some("true") {
        check_endpoint(endpoint.as_deref(), allowed.as_deref(), "AZURE_ALLOW_HTTP")?;
    }
    let builder = builder.with_url(url.as_str()).with_retry(client_retries(settings));
    let builder = builder.with_http_connector(FilteredListings::default());
    let key = AzureConfigKey::Client(ClientConfigKey::Timeout);
    Ok(Arc::new(builder.with_config(key, request_timeout(variable, "AZURE_TIMEOUT")).build()?))
}

/// Builds a client of a web server.
///
/// # Errors
/// Returns an error when no HTTP client can be built.
pub(crate) fn http(
    url: &Url,
    settings: &StoreSettings,
    _: Variable<'_>,
) -> Result<Arc<dyn ObjectStore>, BuildError> {
    // A query (a presigned URL's signature) stays on the base: the client only adds the path.
    let mut base = url.clone();
    base.set_path("");
    let mut headers = HeaderMap::new();
    if let Some(authorization) = basic_authorization(url) {
        // User info has no place in a request's URL, and the client would not make a header of it.
        let cleared = base.set_username("").and_then(|()| base.set_password(None));
        debug_assert!(cleared.is_ok(), "http URLs may have user info, so it can be cleared");
        headers.insert("authorization", authorization);
    }
    let options = ClientOptions::new().with_allow_http(true);
    let builder = HttpBuilder::new()
        .with_url(base.as_str())
        .with_client_options(options)
        .with_http_connector(NoRefererConnector { headers });
    Ok(Arc::new(builder.with_retry(client_retries(settings)).build()?))
}

/// Connects to web servers without a `Referer` header: after a redirect it would tell one server the URL of another, which
/// may hold a signature.
#[derive(Debug)]
struct NoRefererConnector {
    headers: HeaderMap,
}

impl HttpConnector for NoRefererConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .referer(false)
            .http1_only()
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("recaption/", env!("CARGO_PKG_VERSION")))
            .default_headers(self.headers.clone())
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build();
        let failed =
            |source: reqwest::Error| object_store::Error::Generic { store: "HTTP", source: source.into() };
        client.map(HttpClient::new).map_err(failed)
    }
}

/// Returns the header that a URL's user info stands for (RFC 7617), if there is user info.
fn basic_authorization(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut credentials: Vec<u8> = percent_decode_str(url.username()).collect();
    credentials.push(b':');
    credentials.extend(percent_decode_str(url.password().unwrap_or_default()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(credentials))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unencrypted_endpoints_name_the_variable_that_allows_them() {
        let check = |endpoint, allowed| check_endpoint(endpoint, allowed, "AWS_ALLOW_HTTP");
        for (endpoint, allowed) in [
            (None, None),
            (Some("https://s3.example"), Some("false")),
            (Some("http://127.0.0.1:9000"), Some("TRUE")),
            (Some("http://127.0.0.1:9000"), Some("1")),
        ] {
            assert!(check(endpoint, allowed).is_ok(), "{endpoint:?} {allowed:?}");
        }
        for allowed in [None, Some("false"), Some("0"), Some("")] {
            let error = check(Some("HTTP://user:secret@127.0.0.1:9000"), allowed).expect_err("refused");
            let error = error.at("s3://bucket/in".into()).to_string();
            assert!(
                error.starts_with("s3://bucket/in: the endpoint") && error.contains("AWS_ALLOW_HTTP=true"),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
