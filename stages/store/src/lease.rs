//! An object that at most one holder has: put on the condition that nothing else was put since.

use chrono::{DateTime, TimeDelta, Utc};
use object_store::{Error, ObjectStoreExt, PutMode, PutResult, UpdateVersion, path::Path};

use super::{Location, StoreError};

/// Requests for a lease that others want too.
const ATTEMPTS: u32 = 4;

/// Why a lease is not had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another holder has it; this is what it wrote.
    #[error("another run holds the lock")]
    Taken(Vec<u8>),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A lease that is held. What its object holds is the caller's business; every write of one holder must differ from those
/// of others.
pub struct Lease {
    place: Location,
    version: UpdateVersion,
    content: Vec<u8>,
}

impl Lease {
    /// Takes the lease at `place`, where nobody has it or `is_past` says so of what is there and of its age, by the store's own
    /// clock: no machine's is believed.
    ///
    /// # Errors
    /// [`LeaseError::Taken`], or a store that refuses or knows no conditions.
    pub async fn take(
        place: &Location,
        content: Vec<u8>,
        is_past: impl Fn(&[u8], TimeDelta) -> bool,
    ) -> Result<Self, LeaseError> {
        let store_error = |source| StoreError::Store { url: place.url(), source };
        let held = |result: PutResult| Self {
            place: place.clone(),
            version: UpdateVersion::from(result),
            content: content.clone(),
        };
        let mut mode = PutMode::Create;
        for _ in 0..ATTEMPTS {
            match place.store.put_opts(&place.path, content.clone().into(), mode.into()).await {
                Ok(result) => return Ok(held(result)),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(source) => return Err(store_error(source).into()),
            }
            mode = match place.store.get(&place.path).await {
                Ok(got) => {
                    let version =
                        UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
                    let put = got.meta.last_modified;
                    let there = got.bytes().await.map_err(store_error)?;
                    if there == content {
                        // Our own, whose answer was lost.
                        return Ok(Self { place: place.clone(), version, content });
                    }
                    let age = now(place).await? - put;
                    if !is_past(&there, age) {
                        return Err(LeaseError::Taken(there.to_vec()));
                    }
                    PutMode::Update(version)
                }
                Err(Error::NotFound { .. }) => PutMode::Create,
                Err(source) => return Err(store_error(source).into()),
            };
        }
        Err(LeaseError::Taken(Vec::new()))
    }

    /// Writes anew, where nobody else did since.
    ///
    /// # Errors
    /// [`LeaseError::Taken`] when somebody did; a store that refuses.
    pub async fn renew(&mut self, content: Vec<u8>) -> Result<(), LeaseError> {
        let place = &self.place;
        let store_error = |source| StoreError::Store { url: place.url(), source };
        let mode = PutMode::Update(self.version.clone());
        match place.store.put_opts(&place.path, content.clone().into(), mode.into()).await {
            Ok(result) => self.version = UpdateVersion::from(result),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. }) => {
                let got = place.store.get(&place.path).await.map_err(store_error)?;
                let version =
                    UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
                let there = got.bytes().await.map_err(store_error)?;
                // This write or the one before it, whose answers were lost.
                if there != content && there != self.content {
                    return Err(LeaseError::Taken(there.to_vec()));
                }
                self.version = version;
            }
            Err(source) => return Err(store_error(source).into()),
        }
        self.content = content;
        Ok(())
    }
}

/// The store's time: that of an object which is put for it.
async fn now(beside: &Location) -> Result<DateTime<Utc>, StoreError> {
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
