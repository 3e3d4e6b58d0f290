//! A store that takes another attempt where one may go better, and reads on where a connection broke.
//!
//! Around every other store. The cloud clients retry by themselves what a status tells them to; here is the rest: broken
//! and silent connections, answers cut short, and an object's bytes from the one at which they stopped. An object that
//! changed meanwhile is an error, never a mixture.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use super::{error_kind::ErrorKind, settings::StoreSettings};

/// Bytes that count as progress, after which a further break may be as many attempts again; of large objects a
/// [`PROGRESS_SHARE`]th of them. A server that always breaks after less is given up.
const PROGRESS: u64 = 256 << 10;
/// See [`PROGRESS`].
const PROGRESS_SHARE: u64 = 1000;
/// A quarter of what was left is progress too: a small object need not come in one piece.
const PROGRESS_OF_REST: u64 = 4;
/// Objects whose bytes are fetched before they are handed out: records. Whatever goes wrong, they can be asked for again.
const SMALL: u64 = 64 << 10;
/// Objects deleted by one request.
const DELETES: usize = 1000;
/// What an upload may take at least, beside the time in which an answer is due, bytes per second.
const SLOWEST_UPLOAD: u64 = 64 << 10;

/// A store that does not give up at once. Cheap to clone.
#[derive(Clone)]
pub struct RetryingStore {
    inner: Arc<dyn ObjectStore>,
    settings: StoreSettings,
    retried: Arc<AtomicU64>,
}

impl RetryingStore {
    /// Around `inner`; counts further attempts in `retried`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, settings: StoreSettings, retried: Arc<AtomicU64>) -> Self {
        Self { inner, settings, retried }
    }

    /// An object whose bytes are read on where they break.
    async fn get_stream(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (at, wanted) = (location.clone(), options.clone());
        let got = self
            .attempts("reading", location, self.settings.timeout, move |store| {
                let (at, wanted) = (at.clone(), wanted.clone());
                async move { store.get_opts(&at, wanted).await }.boxed()
            })
            .await?;
        let GetResultPayload::Stream(stream) = got.payload else { return Ok(got) };
        if options.head {
            return Ok(GetResult { payload: GetResultPayload::Stream(stream), ..got });
        }
        let reading = Reading {
            store: self.clone(),
            location: location.clone(),
            patience: Patience::new(&self.settings),
            meta: got.meta.clone(),
            at: got.range.start,
            progress: 0,
            waited: Duration::ZERO,
            came: 0,
            range: got.range.clone(),
            options,
            stream: Some(stream),
        };
        // Fused: of an object without bytes object_store asks for more after the end.
        let stream = futures::stream::unfold(Some(reading), Reading::next).fuse().boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(stream), ..got })
    }

    /// Does `call` until it goes well, the error is no bad luck, or the attempts are used up.
    async fn attempts<T>(
        &self,
        what: &str,
        location: &Path,
        within: Duration,
        call: impl Fn(Arc<dyn ObjectStore>) -> BoxFuture<'static, Result<T>> + Send + Sync,
    ) -> Result<T> {
        let mut patience = Patience::new(&self.settings);
        loop {
            let error = match tokio::time::timeout(within, call(Arc::clone(&self.inner))).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => silent(within),
            };
            patience.wait(self, what, location, error).await?;
        }
    }
}

impl RetryingStore {
    async fn delete_one(&self, location: Path) -> Result<Path> {
        let at = location.clone();
        let delete = move |inner: Arc<dyn ObjectStore>| {
            let at = at.clone();
            async move {
                let one = futures::stream::iter([Ok(at.clone())]).boxed();
                inner.delete_stream(one).next().await.unwrap_or(Ok(at))
            }
            .boxed()
        };
        self.attempts("deleting", &location, self.settings.timeout, delete).await
    }
}

/// Attempts left since something went well.
struct Patience {
    left: u32,
    pause: Duration,
    longest: Duration,
}

impl Patience {
    fn new(settings: &StoreSettings) -> Self {
        Self { left: settings.retries, pause: settings.first_pause, longest: settings.longest_pause }
    }

    /// Waits before another attempt, or hands the error back.
    async fn wait(&mut self, store: &RetryingStore, what: &str, location: &Path, error: Error) -> Result<()> {
        if ErrorKind::of(&error) != ErrorKind::Transient || self.left == 0 {
            return Err(error);
        }
        self.left -= 1;
        store.retried.fetch_add(1, Relaxed);
        // Full jitter: many workers that failed together do not come back together.
        let pause = self.pause.mul_f64(fastrand::f64());
        self.pause = (self.pause * 2).min(self.longest);
        tracing::warn!(
            object = %location,
            pause_seconds = pause.as_secs_f64(),
            attempts_left = self.left,
            error = super::user_message(&error),
            "{what} failed; trying again"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

fn io(kind: std::io::ErrorKind, what: String) -> Error {
    Error::Generic { store: "recaption", source: Box::new(std::io::Error::new(kind, what)) }
}

fn silent(within: Duration) -> Error {
    io(std::io::ErrorKind::TimedOut, format!("no answer within {} seconds", within.as_secs()))
}

/// Whether nothing tells one version of an object from another.
pub fn is_unversioned(meta: &ObjectMeta) -> bool {
    meta.e_tag.is_none() && meta.version.is_none() && meta.last_modified.timestamp() <= 0
}

fn changed(location: &Path) -> Error {
    let what = "the object was changed while it was read";
    Error::Precondition { path: location.to_string(), source: what.into() }
}

#[async_trait]
impl ObjectStore for RetryingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let upload = Duration::from_secs(payload.content_length() as u64 / SLOWEST_UPLOAD);
        // Of a conditional put whose answer is lost the next attempt says that the object exists: whoever asks for one
        // must look whether it is his own.
        let at = location.clone();
        self.attempts("writing", location, self.settings.timeout + upload, move |store| {
            let (at, payload, opts) = (at.clone(), payload.clone(), opts.clone());
            async move { store.put_opts(&at, payload, opts).await }.boxed()
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let at = location.clone();
        self.attempts("beginning an upload", location, self.settings.timeout, move |store| {
            let (at, opts) = (at.clone(), opts.clone());
            async move { store.put_multipart_opts(&at, opts).await }.boxed()
        })
        .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut patience = Patience::new(&self.settings);
        loop {
            let got = self.get_stream(location, options.clone()).await?;
            let small = options.range.is_none() && !options.head && got.meta.size <= SMALL;
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
                // A server that announced more than there is refuses the rest.
                Err(error) if error.to_string().contains("416 Range Not Satisfiable") => {
                    let error = io(std::io::ErrorKind::UnexpectedEof, error.to_string());
                    patience.wait(self, "reading", location, error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Many in one request where the store can; those that fail get further attempts of their own.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .ready_chunks(DELETES)
            .then(move |batch| {
                let store = store.clone();
                async move {
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
                        let all = futures::stream::iter(paths.clone().into_iter().map(Ok)).boxed();
                        let within = store.settings.timeout;
                        let deleted = store.inner.delete_stream(all).collect::<Vec<_>>();
                        first = tokio::time::timeout(within, deleted).await.unwrap_or_default();
                    }
                    let done: std::collections::HashSet<Path> =
                        first.into_iter().filter_map(Result::ok).collect();
                    for path in paths {
                        results.push(if done.contains(&path) {
                            Ok(path)
                        } else {
                            store.delete_one(path).await
                        });
                    }
                    futures::stream::iter(results)
                }
            })
            .flatten()
            .boxed()
    }

    /// As the inner store does it: [`super::Location::list`] begins anew where a listing breaks.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        let shown = prefix.clone().unwrap_or_default();
        self.attempts("listing", &shown, self.settings.timeout, move |store| {
            let prefix = prefix.clone();
            async move { store.list_with_delimiter(prefix.as_ref()).await }.boxed()
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, to) = (from.clone(), to.clone());
        self.attempts("copying", from, self.settings.timeout, move |store| {
            let (source, to, options) = (source.clone(), to.clone(), options.clone());
            async move { store.copy_opts(&source, &to, options).await }.boxed()
        })
        .await
    }
}

/// An object's bytes under way.
struct Reading {
    store: RetryingStore,
    location: Path,
    options: GetOptions,
    patience: Patience,
    /// Of the object when its first byte came.
    meta: ObjectMeta,
    range: Range<u64>,
    /// The next byte.
    at: u64,
    /// Bytes since the connection broke last.
    progress: u64,
    /// Time that was spent waiting for bytes, and what came in it, since the last judgement of the speed.
    waited: Duration,
    came: u64,
    stream: Option<BoxStream<'static, Result<Bytes>>>,
}

impl Reading {
    /// The next piece; `None` after the last byte, and after an error.
    async fn next(reading: Option<Self>) -> Option<(Result<Bytes>, Option<Self>)> {
        let mut reading = reading?;
        match reading.piece().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reading))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.stream.is_none() && self.at < self.range.end {
                let again = Again {
                    inner: Arc::clone(&self.store.inner),
                    within: self.store.settings.timeout,
                    location: self.location.clone(),
                    options: self.options.clone(),
                    meta: self.meta.clone(),
                    rest: self.at..self.range.end,
                };
                match again.open().await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) => {
                        self.lost(error).await?;
                        continue;
                    }
                }
            }
            let within = self.store.settings.timeout;
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let began = Instant::now();
            let piece = tokio::time::timeout(within, stream.next()).await;
            self.waited += began.elapsed();
            let error = match piece {
                Ok(Some(Ok(bytes))) if self.at + bytes.len() as u64 > self.range.end => {
                    // A server that sends more than it announced is not to be trusted with the rest.
                    io(std::io::ErrorKind::UnexpectedEof, "more bytes than announced".into())
                }
                Ok(Some(Ok(bytes))) if bytes.is_empty() => continue,
                Ok(Some(Ok(bytes))) => match self.judge(bytes.len() as u64) {
                    Ok(()) => return Ok(Some(bytes)),
                    Err(error) => {
                        // What came is kept: the next attempt begins behind it.
                        self.stream = None;
                        self.lost(error).await?;
                        return Ok(Some(bytes));
                    }
                },
                // All bytes are there: how the connection ends does not matter. Clients ask for the empty rest, and are refused.
                Ok(None | Some(Err(_))) | Err(_) if self.at == self.range.end => return Ok(None),
                Ok(Some(Err(error))) => error,
                Ok(None) => {
                    let what = format!("the connection ended at byte {} of {}", self.at, self.range.end);
                    io(std::io::ErrorKind::UnexpectedEof, what)
                }
                Err(_) => silent(within),
            };
            self.stream = None;
            self.lost(error).await?;
        }
    }

    /// Counts bytes that came; an error where they come so slowly that they might as well not come.
    fn judge(&mut self, bytes: u64) -> Result<()> {
        self.at += bytes;
        self.came += bytes;
        self.progress += bytes;
        let size = self.range.end - self.range.start;
        let was_left = self.range.end - self.at + self.progress;
        if self.progress >= PROGRESS.max(size / PROGRESS_SHARE)
            || self.progress >= was_left / PROGRESS_OF_REST
        {
            self.patience = Patience::new(&self.store.settings);
            self.progress = 0;
        }
        let window = self.store.settings.timeout;
        if self.waited < window || self.at == self.range.end {
            return Ok(());
        }
        let (waited, came) = (std::mem::take(&mut self.waited), std::mem::take(&mut self.came));
        let least = self.store.settings.min_bytes_per_second;
        if came as f64 >= least as f64 * waited.as_secs_f64() {
            return Ok(());
        }
        let what = format!(
            "{came} bytes in {:.1} seconds, less than store.min_bytes_per_second = {least}",
            waited.as_secs_f64()
        );
        Err(io(std::io::ErrorKind::TimedOut, what))
    }

    async fn lost(&mut self, error: Error) -> Result<()> {
        (self.progress, self.waited, self.came) = (0, Duration::ZERO, 0);
        let begun = self.at > self.range.start;
        if begun && self.at < self.range.end && is_unversioned(&self.meta) {
            // Whether the rest belongs to the same object, nobody can tell.
            let what = format!(
                "the connection broke at byte {} of an object whose server tells neither an entity tag nor a time of                  change, so it cannot be read on: {error}",
                self.at
            );
            return Err(io(std::io::ErrorKind::ConnectionReset, what));
        }
        // Whether the client tried again does not matter as long as bytes come.
        let error = match ErrorKind::of(&error) {
            ErrorKind::Exhausted => io(std::io::ErrorKind::ConnectionReset, error.to_string()),
            _ => error,
        };
        self.patience.wait(&self.store, "reading on", &self.location, error).await
    }
}

/// A further request for the rest of an object.
struct Again {
    inner: Arc<dyn ObjectStore>,
    within: Duration,
    location: Path,
    /// Of the first request.
    options: GetOptions,
    /// Of the object when its first byte came.
    meta: ObjectMeta,
    rest: Range<u64>,
}

impl Again {
    /// The rest of the object, if it is still the same.
    async fn open(self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut options = self.options.clone();
        options.range = Some(GetRange::Bounded(self.rest.clone()));
        match self.get(options).await {
            Ok(got) => Ok(got.into_stream()),
            // A web server may not know ranges: it sends everything, and what is known is passed over.
            Err(error) if self.options.range.is_none() && ErrorKind::is_of_ranges(&error) => {
                let got = self.get(self.options.clone()).await?;
                let mut pass = self.rest.start - got.range.start;
                let rest = got.into_stream().map(move |piece| {
                    piece.map(|mut bytes| {
                        let now = usize::try_from(pass).unwrap_or(usize::MAX).min(bytes.len());
                        pass -= now as u64;
                        bytes.split_off(now)
                    })
                });
                Ok(rest.boxed())
            }
            Err(error) => Err(error),
        }
    }

    async fn get(&self, options: GetOptions) -> Result<GetResult> {
        let call = self.inner.get_opts(&self.location, options);
        let got = tokio::time::timeout(self.within, call).await.map_err(|_| silent(self.within))??;
        let (old, new) = (&self.meta, &got.meta);
        // Only some servers give entity tags; the time of change is looked at where there is none.
        let same = old.size == new.size
            && match (&old.e_tag, &new.e_tag) {
                (Some(old), Some(new)) => old == new,
                _ => old.last_modified == new.last_modified,
            };
        if same { Ok(got) } else { Err(changed(&self.location)) }
    }
}

impl fmt::Debug for RetryingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RetryingStore({:?})", self.inner)
    }
}

impl fmt::Display for RetryingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
