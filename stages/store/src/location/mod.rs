//! A path in a store, and what can be done with it: listings, URLs, deletion.

mod between;
mod key_space;
mod list;
mod ranges;

pub use between::NamesBetween;

use std::{path::PathBuf, sync::Arc, time::Duration};

use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use url::Url;

use crate::{StoreError, local::file_path};

/// Time for a listing of one level, whose pages object_store collects itself.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(600);

/// The kind of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// This machine's file system.
    Local,
    /// A bucket or container. It can be listed and written.
    Bucket,
    /// A web server. It can be neither listed nor written.
    Http,
    /// A dataset on the Hugging Face hub. It can be listed, not written.
    Hub,
}

/// Identity of a folder within this process: the address of its store, and its path.
pub type Folder = (usize, Path);

/// A path in a store. Cheap to clone.
#[derive(Clone)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The path within it.
    pub path: Path,
    /// The kind of the store.
    pub kind: StoreKind,
    /// Prefix of every canonical URL in this store, redacted, without a final slash: `s3://bucket`.
    pub(crate) base: Arc<str>,
}

impl Location {
    /// Returns a location in an empty store in memory: a place where nothing is.
    #[must_use]
    pub fn nowhere() -> Self {
        let (store, base) = (Arc::new(InMemory::new()), "memory:/".into());
        Self { store, path: Path::default(), kind: StoreKind::Bucket, base }
    }

    /// Returns the canonical URL of a path in this store, without secrets.
    #[must_use]
    pub fn url_of(&self, path: &Path) -> String {
        format!("{}/{path}", self.base)
    }

    /// Returns this location's canonical URL, without secrets.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(&self.path)
    }

    /// Returns a URL that names this location when it is given back to [`Stores::locate`](crate::Stores::locate), without
    /// secrets. It differs from [`Location::url`] where a name holds characters that mean something in a URL.
    #[must_use]
    pub fn locatable_url(&self) -> String {
        let path = match self.kind {
            StoreKind::Local => {
                let url = Url::from_file_path(self.local_path());
                return url.map_or_else(|()| self.url(), String::from);
            }
            StoreKind::Bucket | StoreKind::Http | StoreKind::Hub => self.path.as_ref(),
        };
        let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        format!("{}/{path}", self.base)
    }

    /// Returns the identity of the folder that holds this location.
    #[must_use]
    pub fn folder(&self) -> Folder {
        let mut parts: Vec<_> = self.path.parts().collect();
        parts.pop();
        (Arc::as_ptr(&self.store).addr(), Path::from_iter(parts))
    }

    /// Returns the path on this machine of a location in [`StoreKind::Local`].
    #[must_use]
    pub fn local_path(&self) -> PathBuf {
        file_path(&self.path)
    }

    /// Lists one level: the folders and objects directly in this location. Returns none where there is no such folder.
    ///
    /// # Errors
    /// Returns an error when the store fails for good, or does not end the listing within 600 seconds.
    pub async fn list_level(&self) -> Result<(Vec<Path>, Vec<ObjectMeta>), StoreError> {
        let listing = self.store.list_with_delimiter(Some(&self.path));
        match tokio::time::timeout(LEVEL_TIMEOUT, listing).await {
            Ok(Ok(level)) => Ok((level.common_prefixes, level.objects)),
            Ok(Err(Error::NotFound { .. })) => Ok((Vec::new(), Vec::new())),
            Ok(Err(source)) => Err(StoreError::Store { url: self.url(), source }),
            Err(_) => {
                let what = format!("the listing did not end within {} s", LEVEL_TIMEOUT.as_secs());
                Err(StoreError::Url { url: self.url(), what })
            }
        }
    }

    /// Deletes the object. A missing object is no error.
    ///
    /// # Errors
    /// Returns an error when the store fails for good.
    pub async fn delete(&self) -> Result<(), StoreError> {
        match self.store.delete(&self.path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::Store { url: self.url(), source }),
        }
    }

    /// Returns another path in the same store.
    #[must_use]
    pub fn at(&self, path: Path) -> Self {
        Self { path, ..self.clone() }
    }

    /// Returns a path below this one. `name` may hold slashes.
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

#[cfg(test)]
mod tests;
