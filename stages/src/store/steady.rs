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
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use super::{fault::Fault, settings::StoreSettings};

/// What an upload may take at least, beside the time in which an answer is due, bytes per second.
const SLOWEST_UPLOAD: u64 = 64 << 10;

/// A store that does not give up at once. Cheap to clone.
#[derive(Clone)]
pub struct Steady {
    inner: Arc<dyn ObjectStore>,
    settings: StoreSettings,
    retried: Arc<AtomicU64>,
}

impl Steady {
    /// Around `inner`; counts further attempts in `retried`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, settings: StoreSettings, retried: Arc<AtomicU64>) -> Self {
        Self { inner, settings, retried }
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
    async fn wait(&mut self, store: &Steady, what: &str, location: &Path, error: Error) -> Result<()> {
        if Fault::of(&error) != Fault::Transient || self.left == 0 {
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
            error = super::words(&error),
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

fn changed(location: &Path) -> Error {
    let what = "the object was changed while it was read";
    Error::Precondition { path: location.to_string(), source: what.into() }
}

#[async_trait]
impl ObjectStore for Steady {
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
            range: got.range.clone(),
            options,
            stream: Some(stream),
        };
        // Fused: of an object without bytes object_store asks for more after the end.
        let stream = futures::stream::unfold(Some(reading), Reading::next).fuse().boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(stream), ..got })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let at = location.clone();
                    let delete = move |inner: Arc<dyn ObjectStore>| {
                        let at = at.clone();
                        async move {
                            let one = futures::stream::iter([Ok(at.clone())]).boxed();
                            inner.delete_stream(one).next().await.unwrap_or(Ok(at))
                        }
                        .boxed()
                    };
                    store.attempts("deleting", &location, store.settings.timeout, delete).await
                }
            })
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
    store: Steady,
    location: Path,
    options: GetOptions,
    patience: Patience,
    /// Of the object when its first byte came.
    meta: ObjectMeta,
    range: Range<u64>,
    /// The next byte.
    at: u64,
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
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let within = self.store.settings.timeout;
            let error = match tokio::time::timeout(within, stream.next()).await {
                Ok(Some(Ok(bytes))) if self.at + bytes.len() as u64 > self.range.end => {
                    // A server that sends more than it announced is not to be trusted with the rest.
                    io(std::io::ErrorKind::UnexpectedEof, "more bytes than announced".into())
                }
                Ok(Some(Ok(bytes))) if bytes.is_empty() => continue,
                Ok(Some(Ok(bytes))) => {
                    self.at += bytes.len() as u64;
                    self.patience = Patience::new(&self.store.settings);
                    return Ok(Some(bytes));
                }
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

    async fn lost(&mut self, error: Error) -> Result<()> {
        // Whether the client tried again does not matter as long as bytes come.
        let error = match Fault::of(&error) {
            Fault::Exhausted => io(std::io::ErrorKind::ConnectionReset, error.to_string()),
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
            Err(error) if self.options.range.is_none() && Fault::is_of_ranges(&error) => {
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

impl fmt::Debug for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Steady({:?})", self.inner)
    }
}

impl fmt::Display for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
