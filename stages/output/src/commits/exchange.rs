//! An object takes the place of exactly the one that was seen there.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path as FsPath,
    time::{Duration, Instant},
};

use bytes::Bytes;
use object_store::{Error, ObjectStoreExt, PutMode, UpdateVersion};

use super::survey::{Sum, sum_of};
use recaption_store::{Location, StoreError, StoreKind};

/// Longest wait for a process that is about to exchange another object of the same output.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
pub(super) enum Exchanged {
    /// The new one is there.
    Done,
    /// Another one was there, and still is.
    Other(Bytes),
    /// There was none.
    Gone,
}

/// Puts `bytes` where what lies there has this `sum`. Stores without conditional updates are locked through the file `lock`
/// on a file system; elsewhere they get as close as they can: look, then put.
pub(super) async fn exchange(
    place: &Location,
    sum: &Sum,
    bytes: &[u8],
    lock: &Location,
) -> Result<Exchanged, StoreError> {
    let failed = |source| StoreError::Store { url: place.url(), source };
    let there = match place.store.get(&place.path).await {
        Ok(got) => got,
        Err(Error::NotFound { .. }) => return Ok(Exchanged::Gone),
        Err(source) => return Err(failed(source)),
    };
    let version = UpdateVersion { e_tag: there.meta.e_tag.clone(), version: there.meta.version.clone() };
    let seen = there.bytes().await.map_err(failed)?;
    if sum_of(&seen) != *sum {
        return Ok(Exchanged::Other(seen));
    }
    let mode = PutMode::Update(version);
    match place.store.put_opts(&place.path, bytes.to_vec().into(), mode.into()).await {
        Ok(_) => return Ok(Exchanged::Done),
        Err(Error::Precondition { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => {
            // Somebody was faster, or it was this very put, whose answer was lost: the caller looks.
            return read(place).await;
        }
        Err(error) if super::cannot_create(&error) => {}
        Err(source) => return Err(failed(source)),
    }
    let _held = if place.kind == StoreKind::Local { Some(held(lock).await?) } else { None };
    match read(place).await? {
        Exchanged::Other(there) if sum_of(&there) == *sum => {
            place.store.put(&place.path, bytes.to_vec().into()).await.map_err(failed)?;
            Ok(Exchanged::Done)
        }
        other => Ok(other),
    }
}

async fn read(place: &Location) -> Result<Exchanged, StoreError> {
    let failed = |source| StoreError::Store { url: place.url(), source };
    match place.store.get(&place.path).await {
        Ok(got) => Ok(Exchanged::Other(got.bytes().await.map_err(failed)?)),
        Err(Error::NotFound { .. }) => Ok(Exchanged::Gone),
        Err(source) => Err(failed(source)),
    }
}

/// The kernel's lock on a file, which ends with its process.
async fn held(lock: &Location) -> Result<File, StoreError> {
    let path = lock.local_path();
    let failed = |what: String| StoreError::Record { url: lock.url(), what };
    let file = open_plain(&path).map_err(|e| failed(e.to_string()))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(failed(format!("it cannot be locked: {error}"))),
        }
    }
}

/// Opens or makes a file that is to be locked; never one behind a link.
///
/// # Errors
/// When the file system refuses, or something else stands there.
pub fn open_plain(path: &FsPath) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if let Ok(meta) = path.symlink_metadata()
        && !meta.is_file()
    {
        let what = "it is a link or no file; move it away";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, what));
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}
