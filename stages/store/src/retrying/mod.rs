//! A store that retries transient failures, and resumes a body where its connection broke.
//!
//! It is around every other store. The cloud clients retry by themselves what a status asks for; here is the rest: broken and
//! silent connections, truncated responses, and an object's bytes from the one at which they stopped. An object that
//! changed meanwhile is an error, never a mixture.

mod attempts;
mod body;
mod versions;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use self::{
    attempts::{Attempts, io_error, timeout_error},
    body::ResumableBody,
};
use crate::{StoreCounters, StoreOperation, StoreSettings};

pub use versions::is_unversioned;

/// Longest wait for the next page of a bucket's listing, in timeouts of a response: the cloud clients retry a page by themselves.
const PAGE_TIMEOUTS: u32 = 4;

/// Largest object, in bytes, that is read whole before it is returned, as records are: whatever fails, it can be requested
/// again.
const SMALL_OBJECT: u64 = 64 << 10;
/// Objects deleted by one request.
const MAX_DELETES: usize = 1000;
/// Least throughput of an upload in bytes per second. It extends the timeout of a response.
const MIN_UPLOAD_RATE: u64 = 64 << 10;

/// A store that retries transient failures. Cheap to clone.
#[derive(Clone)]
pub struct RetryingStore {
    attempts: Attempts,
    listing_timeout: Duration,
}

impl RetryingStore {
    /// Returns a store around `inner` that counts its requests in `counters`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, settings: StoreSettings, counters: Arc<StoreCounters>) -> Self {
        let listing_timeout = settings.timeout.saturating_mul(PAGE_TIMEOUTS);
        Self { attempts: Attempts { inner, settings, counters }, listing_timeout }
    }

    /// Sets the longest wait for the next object of a listing, of a store that collects whole listings before their first object. It is
    /// four times [`StoreSettings::timeout`] otherwise, for stores that list in pages.
    #[must_use]
    pub fn with_listing_timeout(mut self, timeout: Duration) -> Self {
        self.listing_timeout = timeout;
        self
    }

    fn timeout(&self) -> Duration {
        self.attempts.settings.timeout
    }

    /// Gets an object whose body is resumed where it breaks.
    async fn get_resumable(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (path, wanted) = (location.clone(), options.clone());
        let got = self
            .attempts
            .run((StoreOperation::Read, "reading"), location, self.timeout(), move |store| {
                let (path, wanted) = (path.clone(), wanted.clone());
                async move { store.get_opts(&path, wanted).await }.boxed()
            })
            .await?;
        let GetResultPayload::Stream(stream) = got.payload else { return Ok(got) };
        if options.head {
            return Ok(GetResult { payload: GetResultPayload::Stream(stream), ..got });
        }
        let object = (got.meta.clone(), got.range.clone());
        let body = ResumableBody::new(self.attempts.clone(), location.clone(), options, object, stream);
        Ok(GetResult { payload: GetResultPayload::Stream(body.into_stream()), ..got })
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let path = location.clone();
        let delete = move |inner: Arc<dyn ObjectStore>| {
            let path = path.clone();
            async move {
                let one = futures::stream::iter([Ok(path.clone())]).boxed();
                inner.delete_stream(one).next().await.unwrap_or(Ok(path))
            }
            .boxed()
        };
        self.attempts.run((StoreOperation::Delete, "deleting"), &location, self.timeout(), delete).await
    }

    /// Deletes objects by one request where the store can; those that fail get attempts of their own.
    async fn delete_batch(&self, batch: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let mut results: Vec<Result<Path>> = Vec::with_capacity(batch.len());
        let mut paths = Vec::with_capacity(batch.len());
        for location in batch {
            match location {
                Ok(path) => paths.push(path),
                Err(error) => results.push(Err(error)),
            }
        }
        let mut first = Vec::new();
        if paths.len() > 1 {
            self.attempts.counters.count(StoreOperation::Delete);
            let all = futures::stream::iter(paths.clone().into_iter().map(Ok)).boxed();
            let deleted = self.attempts.inner.delete_stream(all).collect::<Vec<_>>();
            first = tokio::time::timeout(self.timeout(), deleted).await.unwrap_or_default();
        }
        let done: HashSet<Path> = first.into_iter().filter_map(Result::ok).collect();
        for path in paths {
            results.push(if done.contains(&path) { Ok(path) } else { self.delete_one(path).await });
        }
        results
    }
}

#[async_trait]
impl ObjectStore for RetryingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let upload = Duration::from_secs(payload.content_length() as u64 / MIN_UPLOAD_RATE);
        // After a conditional put whose response is lost, the next attempt fails because the object exists: the caller
        // must compare it with its own.
        let path = location.clone();
        self.attempts
            .run((StoreOperation::Write, "writing"), location, self.timeout() + upload, move |store| {
                let (path, payload, opts) = (path.clone(), payload.clone(), opts.clone());
                async move { store.put_opts(&path, payload, opts).await }.boxed()
            })
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = location.clone();
        self.attempts
            .run((StoreOperation::Write, "starting an upload"), location, self.timeout(), move |store| {
                let (path, opts) = (path.clone(), opts.clone());
                async move { store.put_multipart_opts(&path, opts).await }.boxed()
            })
            .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut budget = self.attempts.budget();
        loop {
            let got = self.get_resumable(location, options.clone()).await?;
            let small = options.range.is_none() && !options.head && got.meta.size <= SMALL_OBJECT;
            if !small || !matches!(got.payload, GetResultPayload::Stream(_)) {
                return Ok(got);
            }
            let GetResult { payload, meta, range, attributes, extensions } = got;
            let GetResultPayload::Stream(stream) = payload else {
                return Ok(GetResult { payload, meta, range, attributes, extensions });
            };
            let pieces: Result<Vec<Bytes>> = stream.try_collect().await;
            match pieces {
                Ok(pieces) => {
                    let stream = futures::stream::iter(pieces.into_iter().map(Ok)).boxed();
                    let payload = GetResultPayload::Stream(stream);
                    return Ok(GetResult { payload, meta, range, attributes, extensions });
                }
                // A server that announced more bytes than there are refuses the rest.
                Err(error) if error.to_string().contains("416 Range Not Satisfiable") => {
                    let error = io_error(std::io::ErrorKind::UnexpectedEof, error.to_string());
                    self.attempts.pause(&mut budget, "reading", location, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .ready_chunks(MAX_DELETES)
            .then(move |batch| {
                let store = store.clone();
                async move { futures::stream::iter(store.delete_batch(batch).await) }
            })
            .flatten()
            .boxed()
    }

    /// Lists as the inner store does, and fails where no response comes: [`crate::Location::list`] starts over where a listing
    /// breaks.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.attempts.counters.count(StoreOperation::List);
        with_timeout(self.attempts.inner.list(prefix), self.listing_timeout)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.attempts.counters.count(StoreOperation::List);
        with_timeout(self.attempts.inner.list_with_offset(prefix, offset), self.listing_timeout)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        let shown = prefix.clone().unwrap_or_default();
        self.attempts
            .run((StoreOperation::List, "listing"), &shown, self.timeout(), move |store| {
                let prefix = prefix.clone();
                async move { store.list_with_delimiter(prefix.as_ref()).await }.boxed()
            })
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, to) = (from.clone(), to.clone());
        self.attempts
            .run((StoreOperation::Copy, "copying"), from, self.timeout(), move |store| {
                let (source, to, options) = (source.clone(), to.clone(), options.clone());
                async move { store.copy_opts(&source, &to, options).await }.boxed()
            })
            .await
    }
}

/// Ends a listing with an error where its next object does not come within `timeout`.
fn with_timeout(
    listing: BoxStream<'static, Result<ObjectMeta>>,
    timeout: Duration,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let listing = futures::stream::unfold(Some(listing), move |listing| async move {
        let mut listing = listing?;
        match tokio::time::timeout(timeout, listing.next()).await {
            Ok(Some(object)) => Some((object, Some(listing))),
            Ok(None) => None,
            Err(_) => Some((Err(timeout_error(timeout)), None)),
        }
    });
    listing.boxed()
}

impl fmt::Debug for RetryingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetryingStore({:?})", self.attempts.inner)
    }
}

impl fmt::Display for RetryingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempts.inner.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[tokio::test(start_paused = true)]
    async fn silent_listings_end_with_a_transient_error() {
        let timeout = Duration::from_secs(30);
        let mut listing = with_timeout(futures::stream::pending().boxed(), timeout);
        let began = tokio::time::Instant::now();
        let error = listing.next().await.expect("an item").expect_err("nothing came");
        assert_eq!((ErrorKind::of(&error), began.elapsed()), (ErrorKind::Transient, timeout), "{error}");
        assert!(listing.next().await.is_none());
    }
}
