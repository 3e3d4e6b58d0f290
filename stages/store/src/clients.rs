//! Clients of the clouds and of web servers, made from a URL and the environment.

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

use super::{aws_profile, listing::ReadableListings, settings::StoreSettings};

/// TLS needs a provider of cryptography, chosen once per process.
pub fn install_crypto() {
    // A later call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Finds a variable of the environment.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;
/// Makes a client.
pub type Build = fn(&Url, &StoreSettings, Variable<'_>) -> object_store::Result<Arc<dyn ObjectStore>>;

/// What a whole request may take, its body included. Long bodies are read on where they stopped.
const WHOLE_REQUEST: &str = "300 seconds";

/// The same of web servers.
const WHOLE_WEB_REQUEST: Duration = Duration::from_secs(300);
/// Until a connection to a web server stands.
const CONNECTING: Duration = Duration::from_secs(5);

/// Attempts that the clients make by themselves, where a status tells them to.
fn retries(settings: &StoreSettings) -> RetryConfig {
    RetryConfig {
        max_retries: settings.retries as usize,
        backoff: BackoffConfig {
            init_backoff: settings.first_pause,
            max_backoff: settings.longest_pause,
            ..BackoffConfig::default()
        },
        ..RetryConfig::default()
    }
}

/// S3 and its kin.
pub fn s3(
    url: &Url,
    settings: &StoreSettings,
    variable: Variable<'_>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = aws_profile::apply(AmazonS3Builder::from_env(), variable).map_err(|what| {
        object_store::Error::Unauthenticated { path: redact_url(url.as_str()), source: what.into() }
    })?;
    let builder = builder.with_url(url.as_str()).with_retry(retries(settings));
    let builder = builder.with_http_connector(ReadableListings::default());
    let key = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
    let timeout = variable("AWS_TIMEOUT").unwrap_or_else(|| WHOLE_REQUEST.to_owned());
    Ok(Arc::new(builder.with_config(key, timeout).build()?))
}

/// Google Cloud Storage.
pub fn gcs(
    url: &Url,
    settings: &StoreSettings,
    variable: Variable<'_>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retries(settings));
    let builder = builder.with_http_connector(ReadableListings::default());
    let key = GoogleConfigKey::Client(ClientConfigKey::Timeout);
    let timeout = variable("GOOGLE_TIMEOUT").unwrap_or_else(|| WHOLE_REQUEST.to_owned());
    Ok(Arc::new(builder.with_config(key, timeout).build()?))
}

/// Azure's blobs.
pub fn azure(
    url: &Url,
    settings: &StoreSettings,
    variable: Variable<'_>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retries(settings));
    let builder = builder.with_http_connector(ReadableListings::default());
    let key = AzureConfigKey::Client(ClientConfigKey::Timeout);
    let timeout = variable("AZURE_TIMEOUT").unwrap_or_else(|| WHOLE_REQUEST.to_owned());
    Ok(Arc::new(builder.with_config(key, timeout).build()?))
}

/// A web server.
pub fn http(
    url: &Url,
    settings: &StoreSettings,
    _: Variable<'_>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    // A query (a presigned URL's signature) stays on the base: the client only adds the path.
    let mut base = url.clone();
    base.set_path("");
    let mut headers = HeaderMap::new();
    if let Some(authorization) = basic_authorization(url) {
        // User info has no place in a request's address, and the client would not make a header of it.
        let cleared = base.set_username("").and_then(|()| base.set_password(None));
        debug_assert!(cleared.is_ok(), "http addresses may have user info, so it can be cleared");
        headers.insert("authorization", authorization);
    }
    let options = ClientOptions::new().with_allow_http(true);
    let builder = HttpBuilder::new()
        .with_url(base.as_str())
        .with_client_options(options)
        .with_http_connector(Discreet { headers });
    Ok(Arc::new(builder.with_retry(retries(settings)).build()?))
}

/// Connects to web servers; tells none of them, after a redirect, what another was asked, which may hold a signature.
#[derive(Debug)]
struct Discreet {
    headers: HeaderMap,
}

impl HttpConnector for Discreet {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .referer(false)
            .http1_only()
            .timeout(WHOLE_WEB_REQUEST)
            .connect_timeout(CONNECTING)
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

/// The header that user info stands for (RFC 7617), where there is user info.
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
