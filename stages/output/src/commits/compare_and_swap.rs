//! Replaces exactly the object that was read before.

use std::{
    fs::{File, TryLockError},
    time::Duration,
};

use bytes::Bytes;
use object_store::{Error, ObjectStoreExt, PutMode, UpdateVersion};
use recaption_store::{Location, StoreError, StoreKind, lacks_conditional_put, open_lock_file};
use tokio::time::Instant;

use crate::digest::{ContentDigest, digest_of};

/// Longest wait for another process that replaces an object of the same output.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between attempts at the lock.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// How a replacement ended.
pub(super) enum SwapResult {
    /// The new object is there.
    Swapped,
    /// Another object is there, with this content.
    Mismatch(Bytes),
    /// There is no object.
    Missing,
}

/// Puts `bytes` if the existing object has the digest `expected`. Where there are no conditional updates, a file system is
/// locked through the file `lock`; any other store gets a read followed by a put.
pub(super) async fn compare_and_swap(
    location: &Location,
    expected: &ContentDigest,
    bytes: &[u8],
    lock: &Location,
) -> Result<SwapResult, StoreError> {
    let failed = |source| StoreError::Store { url: location.url(), source };
    let existing = match location.store.get(&location.path).await {
        Ok(got) => got,
        Err(Error::NotFound { .. }) => return Ok(SwapResult::Missing),
        Err(source) => return Err(failed(source)),
    };
    let version =
        UpdateVersion { e_tag: existing.meta.e_tag.clone(), version: existing.meta.version.clone() };
    let content = existing.bytes().await.map_err(failed)?;
    if digest_of(&content) != *expected {
        return Ok(SwapResult::Mismatch(content));
    }
    let mode = PutMode::Update(version);
    match location.store.put_opts(&location.path, bytes.to_vec().into(), mode.into()).await {
        Ok(_) => return Ok(SwapResult::Swapped),
        Err(Error::Precondition { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => {
            // Another process was faster, or it was this put, whose response was lost: the caller compares.
            return read(location).await;
        }
        Err(error) if lacks_conditional_put(&error) => {}
        Err(source) => return Err(failed(source)),
    }
    let _locked = if location.kind == StoreKind::Local { Some(acquire(lock).await?) } else { None };
    match read(location).await? {
        SwapResult::Mismatch(content) if digest_of(&content) == *expected => {
            location.store.put(&location.path, bytes.to_vec().into()).await.map_err(failed)?;
            Ok(SwapResult::Swapped)
        }
        other => Ok(other),
    }
}

async fn read(location: &Location) -> Result<SwapResult, StoreError> {
    let bytes = super::log::read_bytes(location).await?;
    Ok(bytes.map_or(SwapResult::Missing, SwapResult::Mismatch))
}

/// Acquires the kernel's lock on a file. It ends with the process.
async fn acquire(lock: &Location) -> Result<File, StoreError> {
    let failed = |what: String| StoreError::Record { url: lock.url(), what };
    let file = open_lock_file(&lock.local_path()).map_err(|e| failed(e.to_string()))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_TIMEOUT => {
                tokio::time::sleep(LOCK_POLL).await;
            }
            Err(error) => return Err(failed(format!("it cannot be locked: {error}"))),
        }
    }
}
