//! A lease: an object that at most one process holds, put on the condition that nothing else was put since.

use chrono::{DateTime, TimeDelta, Utc};
use object_store::{Error, ObjectStoreExt, PutMode, PutResult, UpdateVersion, path::Path};

use crate::{Location, StoreError};

/// Conditional puts before a contended lease counts as held.
const MAX_PUTS: u32 = 4;

/// Why a lease cannot be acquired or renewed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// Another process holds it. The bytes are the content that it wrote, empty where it is unknown.
    #[error("another process holds the lease")]
    Held(Vec<u8>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A lease that is held. Its content is the caller's; every write must differ from those of other processes.
#[derive(Debug)]
pub(crate) struct Lease {
    location: Location,
    version: UpdateVersion,
    content: Vec<u8>,
}

impl Lease {
    /// Acquires the lease at `location` if it is free, or if `is_expired` accepts its content and its age. The age is
    /// measured by the store's clock; no machine's clock is trusted.
    ///
    /// # Errors
    /// Returns [`LeaseError::Held`], or an error of a store that fails or has no conditional puts.
    pub(crate) async fn acquire(
        location: &Location,
        content: Vec<u8>,
        is_expired: impl Fn(&[u8], TimeDelta) -> bool,
    ) -> Result<Self, LeaseError> {
        let store_error = |source| StoreError::Store { url: location.url(), source };
        let held = |result: PutResult| Self {
            location: location.clone(),
            version: UpdateVersion::from(result),
            content: content.clone(),
        };
        let mut mode = PutMode::Create;
        for _ in 0..MAX_PUTS {
            match location.store.put_opts(&location.path, content.clone().into(), mode.into()).await {
                Ok(result) => return Ok(held(result)),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(source) => return Err(store_error(source).into()),
            }
            mode = match location.store.get(&location.path).await {
                Ok(got) => {
                    let version =
                        UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
                    let put = got.meta.last_modified;
                    let existing = got.bytes().await.map_err(store_error)?;
                    if existing == content {
                        // This process's own put, whose response was lost.
                        return Ok(Self { location: location.clone(), version, content });
                    }
                    let age = store_time(location).await? - put;
                    if !is_expired(&existing, age) {
                        return Err(LeaseError::Held(existing.to_vec()));
                    }
                    PutMode::Update(version)
                }
                Err(Error::NotFound { .. }) => PutMode::Create,
                Err(source) => return Err(store_error(source).into()),
            };
        }
        Err(LeaseError::Held(Vec::new()))
    }

    /// Writes new content on the condition that no other process wrote since.
    ///
    /// # Errors
    /// Returns [`LeaseError::Held`] when another process did, or an error of the store.
    pub(crate) async fn renew(&mut self, content: Vec<u8>) -> Result<(), LeaseError> {
        let location = &self.location;
        let store_error = |source| StoreError::Store { url: location.url(), source };
        let mode = PutMode::Update(self.version.clone());
        match location.store.put_opts(&location.path, content.clone().into(), mode.into()).await {
            Ok(result) => self.version = UpdateVersion::from(result),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. }) => {
                let got = location.store.get(&location.path).await.map_err(store_error)?;
                let version =
                    UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
                let existing = got.bytes().await.map_err(store_error)?;
                // This write or the one before it, whose responses were lost.
                if existing != content && existing != self.content {
                    return Err(LeaseError::Held(existing.to_vec()));
                }
                self.version = version;
            }
            Err(source) => return Err(store_error(source).into()),
        }
        self.content = content;
        Ok(())
    }
}

/// Returns the store's time: the modification time of an object that is put for it.
async fn store_time(beside: &Location) -> Result<DateTime<Utc>, StoreError> {
    let mut folder: Vec<_> = beside.path.parts().collect();
    folder.pop();
    let path = Path::from_iter(folder).join(format!("clock-{:016x}", fastrand::u64(..)));
    let clock = beside.at(path);
    let failed = |source| StoreError::Store { url: clock.url(), source };
    clock.store.put(&clock.path, Vec::new().into()).await.map_err(failed)?;
    let now = clock.store.head(&clock.path).await.map(|meta| meta.last_modified);
    clock.store.delete(&clock.path).await.map_err(failed)?;
    now.map_err(failed)
}
