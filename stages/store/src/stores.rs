//! Opens stores by URL; each bucket, host or file system is opened once.

use std::{
    collections::HashMap,
    fmt,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
    time::Duration,
};

use object_store::{ObjectStore, path::Path};
use recaption_schemas::redact_url;
use url::Url;

use crate::{
    Dataset, EnvLookup, Hub, HubSettings, Location, RetryingStore, StoreCounters, StoreError, StoreKind,
    StoreSettings,
    clients::{self, Build},
    local::LocalStore,
};

/// Longest wait for the first object of a listing that is collected whole: of a file system's folder, or of a dataset on the hub.
const WHOLE_LISTING_TIMEOUT: Duration = Duration::from_secs(600);

/// Puts a store around another.
pub type Wrap = Arc<dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync>;

/// Opens stores by URL and keeps them open.
#[derive(Default)]
pub struct Stores {
    open: HashMap<String, Arc<dyn ObjectStore>>,
    settings: StoreSettings,
    wrap: Option<Wrap>,
    environment: Option<EnvLookup>,
    counters: Arc<StoreCounters>,
}

impl Stores {
    /// Returns an opener whose stores have these settings.
    #[must_use]
    pub fn new(settings: StoreSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Puts `wrap` around every store, inside of the retries: to count requests, or to inject faults.
    #[must_use]
    pub fn wrapped(self, wrap: Wrap) -> Self {
        Self { wrap: Some(wrap), ..self }
    }

    /// Takes the variables of the hub and of AWS's profiles from `environment` instead of the process's. What object_store
    /// reads by itself stays the process's.
    #[must_use]
    pub fn with_environment(self, environment: EnvLookup) -> Self {
        Self { environment: Some(environment), ..self }
    }

    /// Closes the stores of presigned URLs that nobody uses any more: each query has a client of its own, and a process that
    /// lives for many of them would keep all.
    pub fn close_unused_presigned(&mut self) {
        let is_presigned = |key: &str| key.rsplit_once('#').is_some_and(|(_, query)| !query.is_empty());
        self.open.retain(|key, store| !is_presigned(key) || Arc::strong_count(store) > 1);
    }

    /// Returns the number of open stores.
    #[must_use]
    pub fn open_stores(&self) -> usize {
        self.open.len()
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.environment.as_ref().map_or_else(|| std::env::var(name).ok(), |lookup| lookup(name))
    }

    /// Returns the number of further attempts so far, without those that the cloud clients make by themselves.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.counters.retried()
    }

    /// Returns the counts of requests to the stores that are opened here.
    #[must_use]
    pub fn counters(&self) -> Arc<StoreCounters> {
        Arc::clone(&self.counters)
    }

    fn with_retries(&self, store: Arc<dyn ObjectStore>) -> RetryingStore {
        let store = self.wrap.as_ref().map_or(Arc::clone(&store), |wrap| wrap(store));
        RetryingStore::new(store, self.settings, self.counters())
    }

    /// As [`Stores::with_retries`], of a store that collects a whole listing before its first object.
    fn with_whole_listings(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(self.with_retries(store).with_listing_timeout(WHOLE_LISTING_TIMEOUT))
    }

    /// Returns the location that a URL or path names. Nothing is read yet.
    ///
    /// # Errors
    /// Returns an error for an unknown scheme, a malformed URL, or settings and credentials that cannot be used.
    pub fn locate(&mut self, text: &str) -> Result<Location, StoreError> {
        let bad = |what: String| StoreError::Url { url: redact_url(text), what };
        match text.split_once("://").map(|(scheme, _)| scheme) {
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
                let store = self.with_whole_listings(Arc::new(LocalStore::new()));
                self.open.insert("file".into(), Arc::clone(&store));
                store
            }
        };
        Ok(Location { store, path, kind: StoreKind::Local, base: "file://".into() })
    }

    fn remote(&mut self, text: &str) -> Result<Location, StoreError> {
        clients::install_crypto();
        let redacted = redact_url(text);
        let bad = |what: String| StoreError::Url { url: redacted.clone(), what };
        let url = Url::parse(text).map_err(|e| bad(e.to_string()))?;
        let scheme = url.scheme().to_owned();
        let (kind, build): (_, Build) = match scheme.as_str() {
            "s3" | "s3a" => (StoreKind::Bucket, clients::s3),
            "gs" => (StoreKind::Bucket, clients::gcs),
            "az" | "azure" | "adl" | "abfs" | "abfss" => (StoreKind::Bucket, clients::azure),
            "http" | "https" => (StoreKind::Http, clients::http),
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
                    .map_err(|error| error.at(redacted))?;
                let store: Arc<dyn ObjectStore> = Arc::new(self.with_retries(store));
                self.open.insert(key, Arc::clone(&store));
                store
            }
        };
        let base = redact_url(&url[..url::Position::BeforePath]).into();
        Ok(Location { store, path, kind, base })
    }

    /// Opens one store per dataset and revision, so that the revision's commit is looked up once.
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
                let store = self.with_whole_listings(Arc::new(store));
                self.open.insert(base.clone(), Arc::clone(&store));
                store
            }
        };
        Ok(Location { store, path, kind: StoreKind::Hub, base: base.into() })
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys may hold a presigned query.
        f.debug_struct("Stores").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

/// Makes a path absolute and removes `.` and `..`, whether it exists or not: one shard has one URL.
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
    fn paths_and_file_urls_name_one_location() {
        let mut stores = Stores::default();
        let a = stores.locate("/data/x/../a b.tar").expect("path");
        let b = stores.locate("file:///data/a%20b.tar").expect("url");
        assert_eq!(a.path, b.path);
        assert_eq!(a.url(), b.url());
        assert!(a.url().starts_with("file:///data/a"), "{}", a.url());
    }

    #[test]
    fn presigned_urls_are_redacted_in_names_only() {
        let mut stores = Stores::default();
        let one = stores.locate("https://u:p@h.example:8443/b/0.tar?sig=one").expect("url");
        let two = stores.locate("https://u:p@h.example:8443/b/1.tar?sig=two").expect("url");
        assert_eq!(one.url(), "https://h.example:8443/b/0.tar");
        assert!(!Arc::ptr_eq(&one.store, &two.store), "each signature needs its own client");
        assert!(!format!("{stores:?}").contains("sig="), "{stores:?}");
    }

    #[test]
    fn unused_presigned_stores_are_closed() {
        let mut stores = Stores::default();
        let kept = stores.locate("https://h.example/0.tar?sig=kept").expect("url");
        for n in 1..9 {
            stores.locate(&format!("https://h.example/{n}.tar?sig={n}")).expect("url");
        }
        stores.locate("https://h.example/9.tar").expect("url");
        assert_eq!(stores.open_stores(), 10);
        stores.close_unused_presigned();
        assert_eq!(stores.open_stores(), 2, "one is in use, one is not presigned");
        let again = stores.locate("https://h.example/0.tar?sig=kept").expect("url");
        assert!(Arc::ptr_eq(&kept.store, &again.store));
    }

    #[test]
    fn locatable_urls_name_the_same_object() {
        let mut stores = Stores::default();
        for url in ["https://h.example/a%20b/c%23%3F%25.tar", "https://h.example/plain.tar"] {
            let location = stores.locate(url).expect("url");
            let again = stores.locate(&location.locatable_url()).expect("url");
            assert_eq!((again.path, again.base), (location.path.clone(), location.base.clone()), "{url}");
        }
        let file = stores.locate("/data/a#b%20c?.tar").expect("path");
        assert_eq!(stores.locate(&file.locatable_url()).expect("url").path, file.path);
    }

    #[test]
    fn unknown_schemes_are_named() {
        let error = Stores::default().locate("ftp://h/x.tar").expect_err("error").to_string();
        assert!(error.contains("unknown scheme `ftp`"), "{error}");
    }

    #[test]
    fn children_are_below() {
        let out = Stores::default().locate("/out").expect("path");
        assert_eq!(out.child("captions/part-a.parquet").url(), "file:///out/captions/part-a.parquet");
    }
}
