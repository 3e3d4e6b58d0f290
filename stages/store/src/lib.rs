//! Object stores by URL: one store per bucket, host or machine, opened once.
//!
//! Plain paths and `file://`, `s3://`, `gs://`, `az://` (and its relatives), `http(s)://` and `hf://datasets/` (both
//! reading only). Credentials come from each cloud's own environment variables, as object_store documents them, from AWS's
//! shared files, and from the hub's variables. Secrets never appear in an error. Every store is [`RetryingStore`]: it takes
//! another attempt where one may go better.

mod aws_profile;
mod clients;
mod error_kind;
mod hub;
mod json;
mod lease;
mod listing;
mod local;
mod retrying;
mod settings;

use std::{
    collections::HashMap,
    path::{Path as FsPath, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, path::Path};
use recaption_schemas::redact_url;
use url::Url;

use clients::{Build, azure, gcs, http, s3};

pub use clients::install_crypto;
pub use error_kind::{ErrorKind, user_message};
pub use hub::{Dataset, Hub, HubSettings};
pub use json::{read_json, to_json, write_json};
pub use lease::{Lease, LeaseError};
use local::LocalStore;
pub use retrying::RetryingStore;
pub use retrying::is_unversioned;
pub use settings::StoreSettings;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL cannot be understood.
    #[error("{url}: {what}")]
    Url {
        /// The URL, redacted.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// A record of the output cannot be used.
    #[error("{url}: {what}")]
    Record {
        /// The record's URL, redacted.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// The store refuses.
    #[error("{url}: {}", user_message(source))]
    Store {
        /// The URL, redacted.
        url: String,
        /// The store's words.
        source: object_store::Error,
    },
}

impl StoreError {
    /// What is to be done about it.
    #[must_use]
    pub fn fault(&self) -> ErrorKind {
        match self {
            Self::Url { .. } | Self::Record { .. } => ErrorKind::Permanent,
            Self::Store { source, .. } => ErrorKind::of(source),
        }
    }
}

/// What kind of place a URL speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// This machine's file system.
    Local,
    /// A bucket or container: can be listed and written.
    Bucket,
    /// A web server: can be read only.
    Http,
    /// A dataset on the Hugging Face hub: can be listed, not written.
    Hub,
}

/// A store by its address, and a folder in it.
pub type Folder = (usize, Path);

/// A place in a store.
#[derive(Clone)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The place within it.
    pub path: Path,
    /// What kind of store it is.
    pub kind: StoreKind,
    /// Beginning of every canonical URL in this store, redacted: `s3://bucket`.
    base: String,
}

impl Location {
    /// Canonical URL of a place in this store, without secrets.
    #[must_use]
    pub fn url_of(&self, path: &Path) -> String {
        format!("{}/{path}", self.base)
    }

    /// Its own canonical URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(&self.path)
    }

    /// The folder that it lies in: the store, by its address, and the place there.
    #[must_use]
    pub fn folder(&self) -> Folder {
        let mut parts: Vec<_> = self.path.parts().collect();
        parts.pop();
        (Arc::as_ptr(&self.store).addr(), Path::from_iter(parts))
    }

    /// Everything below this place, in no order; nothing where there is no such place. Begins anew where a listing
    /// breaks.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn list(&self) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut left = LISTINGS;
        loop {
            left -= 1;
            match self.list_bounded(MAX_LISTED).await {
                Ok(metas) => return Ok(metas),
                Err(object_store::Error::NotFound { .. }) if self.kind == StoreKind::Local => {
                    return Ok(Vec::new());
                }
                Err(error) if left > 0 && ErrorKind::of(&error) == ErrorKind::Transient => {
                    tracing::warn!(
                        folder = self.url(),
                        error = user_message(&error),
                        "listing broke; beginning anew"
                    );
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(source) => return Err(StoreError::Store { url: self.url(), source }),
            }
        }
    }

    /// Everything below this place, if it is no more than `most` objects and the listing ends: a store that repeats its first
    /// page for ever is not waited for.
    async fn list_bounded(&self, most: usize) -> Result<Vec<ObjectMeta>, object_store::Error> {
        let endless = |what: String| object_store::Error::Generic { store: "listing", source: what.into() };
        let mut listing = self.store.list(Some(&self.path));
        let mut metas: Vec<ObjectMeta> = Vec::new();
        while let Some(meta) = listing.try_next().await? {
            if metas.first().is_some_and(|first| first.location == meta.location) {
                return Err(endless(format!(
                    "the listing begins again with {} after {} objects: the store does not page as it should",
                    meta.location,
                    metas.len()
                )));
            }
            if metas.len() == most {
                return Err(endless(format!(
                    "the listing has more than {most} objects: name a folder further down"
                )));
            }
            metas.push(meta);
        }
        Ok(metas)
    }

    /// The path of a place on this machine.
    #[must_use]
    pub fn local_path(&self) -> PathBuf {
        // object_store escapes a few characters in paths of local files.
        let file = Url::parse(&format!("file:///{}", self.path)).ok().and_then(|url| url.to_file_path().ok());
        file.unwrap_or_else(|| FsPath::new("/").join(self.path.as_ref()))
    }

    /// What lies directly in this place: folders, and objects.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn list_level(&self) -> Result<(Vec<Path>, Vec<ObjectMeta>), StoreError> {
        let listing = self.store.list_with_delimiter(Some(&self.path));
        match tokio::time::timeout(LEVEL_TIMEOUT, listing).await {
            Ok(Ok(level)) => Ok((level.common_prefixes, level.objects)),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok((Vec::new(), Vec::new())),
            Ok(Err(source)) => Err(StoreError::Store { url: self.url(), source }),
            Err(_) => {
                let what = format!("the listing did not end within {} s", LEVEL_TIMEOUT.as_secs());
                Err(StoreError::Url { url: self.url(), what })
            }
        }
    }

    /// Another place in the same store.
    #[must_use]
    pub fn at(&self, path: Path) -> Self {
        Self { path, ..self.clone() }
    }

    /// A place below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        // `join` takes one part; a name with slashes is several.
        let path = name.split('/').fold(self.path.clone(), |path, part| path.join(part));
        self.at(path)
    }
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Location({})", self.url())
    }
}

/// Splits what a user wrote into the part that is parsed and a pattern's wildcards, which URLs do not know.
fn scheme_of(text: &str) -> Option<&str> {
    text.split_once("://").map(|(scheme, _)| scheme)
}

/// Attempts to list a folder.
const LISTINGS: u32 = 5;
/// Objects of one listing, at most: some gigabytes of memory, and 10,000 requests.
const MAX_LISTED: usize = 10_000_000;
/// Time for a listing of one level, whose pages object_store collects itself.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(600);

/// Puts a store around another.
pub type Wrap = Arc<dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync>;

/// Finds a variable of an environment.
pub type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Opens stores and keeps them.
#[derive(Default)]
pub struct Stores {
    open: HashMap<String, Arc<dyn ObjectStore>>,
    settings: StoreSettings,
    wrap: Option<Wrap>,
    environment: Option<Lookup>,
    retried: Arc<AtomicU64>,
}

impl Stores {
    /// Stores with these settings.
    #[must_use]
    pub fn new(settings: StoreSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Puts something between every store and what makes it steady: to count requests, or to inject faults.
    #[must_use]
    pub fn wrapped(self, wrap: Wrap) -> Self {
        Self { wrap: Some(wrap), ..self }
    }

    /// Takes the variables of the hub and of AWS's profiles from `environment` instead of the process's; what object_store
    /// reads by itself stays the process's.
    #[must_use]
    pub fn with_environment(self, environment: Lookup) -> Self {
        Self { environment: Some(environment), ..self }
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.environment.as_ref().map_or_else(|| std::env::var(name).ok(), |lookup| lookup(name))
    }

    /// Further attempts so far, those of the cloud clients' own not counted.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.retried.load(Relaxed)
    }

    fn steady(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        let store = self.wrap.as_ref().map_or(Arc::clone(&store), |wrap| wrap(store));
        Arc::new(RetryingStore::new(store, self.settings, Arc::clone(&self.retried)))
    }

    /// The place that `text` names: a URL or a path. Nothing is read yet.
    ///
    /// # Errors
    /// An unknown scheme, a malformed URL, unusable credentials.
    pub fn locate(&mut self, text: &str) -> Result<Location, StoreError> {
        let bad = |what: String| StoreError::Url { url: redact_url(text), what };
        match scheme_of(text) {
            None => self.local(&absolute(FsPath::new(text)).map_err(|e| bad(e.to_string()))?, text),
            Some(scheme) if scheme.eq_ignore_ascii_case("file") => {
                let url = Url::parse(text).map_err(|e| bad(e.to_string()))?;
                let path = url.to_file_path().map_err(|()| bad("not a path on this machine".into()))?;
                self.local(&path, text)
            }
            Some(_) => self.remote(text),
        }
    }

    fn local(&mut self, path: &FsPath, text: &str) -> Result<Location, StoreError> {
        let path = LocalStore::path_of(path)
            .map_err(|e| StoreError::Url { url: text.to_owned(), what: e.to_string() })?;
        let store = match self.open.get("file") {
            Some(store) => Arc::clone(store),
            None => {
                let store = self.steady(Arc::new(LocalStore::new()));
                self.open.insert("file".into(), Arc::clone(&store));
                store
            }
        };
        Ok(Location { store, path, kind: StoreKind::Local, base: "file://".into() })
    }

    fn remote(&mut self, text: &str) -> Result<Location, StoreError> {
        install_crypto();
        let redacted = redact_url(text);
        let bad = |what: String| StoreError::Url { url: redacted.clone(), what };
        let url = Url::parse(text).map_err(|e| bad(e.to_string()))?;
        let scheme = url.scheme().to_owned();
        let (kind, build): (_, Build) = match scheme.as_str() {
            "s3" | "s3a" => (StoreKind::Bucket, s3),
            "gs" => (StoreKind::Bucket, gcs),
            "az" | "azure" | "adl" | "abfs" | "abfss" => (StoreKind::Bucket, azure),
            "http" | "https" => (StoreKind::Http, http),
            "hf" => return self.hub(&url, &redacted),
            _ => {
                return Err(bad(format!(
                    "unknown scheme `{scheme}`; known are file, s3, gs, az, http, https, hf and plain paths"
                )));
            }
        };
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("no bucket or host".into()));
        }
        let path =
            Path::from_url_path(url.path()).map_err(|e| bad(format!("the path cannot be used: {e}")))?;
        // Everything that changes the client belongs to the key: user info, port, and a presigned query.
        let key = format!("{}#{}", &url[..url::Position::BeforePath], url.query().unwrap_or_default());
        let store = match self.open.get(&key) {
            Some(store) => Arc::clone(store),
            None => {
                let store = build(&url, &self.settings, &|name| self.variable(name))
                    .map_err(|source| StoreError::Store { url: redacted, source })?;
                let store = self.steady(store);
                self.open.insert(key, Arc::clone(&store));
                store
            }
        };
        let base = redact_url(&url[..url::Position::BeforePath]);
        Ok(Location { store, path, kind, base })
    }

    /// One store per dataset and revision: the revision's commit is looked up once.
    fn hub(&mut self, url: &Url, redacted: &str) -> Result<Location, StoreError> {
        let bad = |what: String| StoreError::Url { url: redacted.to_owned(), what };
        let (dataset, path) = Dataset::parse(url).map_err(bad)?;
        let base = dataset.to_string();
        let store = match self.open.get(&base) {
            Some(store) => Arc::clone(store),
            None => {
                let hub = HubSettings::from_lookup(|name| self.variable(name)).map_err(bad)?;
                let store = Hub::new(dataset, hub, self.settings)
                    .map_err(|source| StoreError::Store { url: redacted.to_owned(), source })?;
                let store = self.steady(Arc::new(store));
                self.open.insert(base.clone(), Arc::clone(&store));
                store
            }
        };
        Ok(Location { store, path, kind: StoreKind::Hub, base })
    }
}

/// Absolute and without `.` and `..`, whether it exists or not: one shard has one URL.
fn absolute(path: &FsPath) -> std::io::Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_file_urls_are_one_place() {
        let mut stores = Stores::default();
        let a = stores.locate("/data/x/../a b.tar").expect("path");
        let b = stores.locate("file:///data/a%20b.tar").expect("url");
        assert_eq!(a.path, b.path);
        assert_eq!(a.url(), b.url());
        assert!(a.url().starts_with("file:///data/a"), "{}", a.url());
    }

    #[test]
    fn presigned_urls_lose_their_secret_in_names_but_not_in_requests() {
        let mut stores = Stores::default();
        let one = stores.locate("https://u:p@h.example:8443/b/0.tar?sig=one").expect("url");
        let two = stores.locate("https://u:p@h.example:8443/b/1.tar?sig=two").expect("url");
        assert_eq!(one.url(), "https://h.example:8443/b/0.tar");
        assert!(!Arc::ptr_eq(&one.store, &two.store), "each signature needs its own client");
    }

    #[test]
    fn unknown_schemes_are_named() {
        let error = Stores::default().locate("ftp://h/x.tar").expect_err("error").to_string();
        assert!(error.contains("unknown scheme `ftp`"), "{error}");
    }

    #[test]
    fn children_go_below() {
        let out = Stores::default().locate("/out").expect("path");
        assert_eq!(out.child("captions/part-a.parquet").url(), "file:///out/captions/part-a.parquet");
    }
}

#[cfg(test)]
mod endless;

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
