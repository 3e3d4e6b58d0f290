//! A store that fails now and then, around another: before a request, after it (the answer is lost), in the middle of a
//! body, by silence, by a body that ends too early. The same seed fails the same requests in the same order.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};

use super::Dice;

/// How often, and how long silence lasts.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    /// Share of requests that fail, 0 to 1.
    pub(crate) rate: f64,
    /// A silence, longer than whoever waits is patient.
    pub(crate) silence: Duration,
    /// Seed.
    pub(crate) seed: u64,
    /// From how many writes on every further one is refused, and how.
    pub(crate) refusal: Option<(u64, Refusal)>,
}

/// What will not pass.
#[derive(Clone, Copy)]
pub(crate) enum Refusal {
    /// No room is left.
    Full,
    /// The credentials do not allow it.
    Denied,
}

struct State {
    dice: Mutex<Dice>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    faults: Faults,
    writes: AtomicU64,
}

/// Counts and dice, shared by all stores that [`Flaky::around`] makes.
#[derive(Clone)]
pub(crate) struct Flaky(Arc<State>);

impl Flaky {
    /// Nothing has failed yet.
    pub(crate) fn new(faults: Faults) -> Self {
        let dice = Mutex::new(Dice::new(faults.seed));
        Self(Arc::new(State { dice, counts: Mutex::default(), faults, writes: AtomicU64::new(0) }))
    }

    /// A store that fails around one that does not.
    pub(crate) fn around(&self, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(FlakyStore { inner, flaky: self.clone() })
    }

    /// Faults so far, by kind.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of `kinds`, now and then.
    fn throw(&self, kinds: &[&'static str]) -> Option<&'static str> {
        let mut dice = self.0.dice.lock().unwrap_or_else(PoisonError::into_inner);
        if dice.fraction() >= self.0.faults.rate {
            return None;
        }
        let kind = kinds[dice.throw() as usize % kinds.len()];
        *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
        Some(kind)
    }

    fn write(&self, location: &Path) -> Result<()> {
        let writes = self.0.writes.fetch_add(1, Relaxed);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        match self.0.faults.refusal {
            Some((from, Refusal::Full)) if writes >= from => {
                Err(Error::Generic { store: "flaky", source: Box::new(full) })
            }
            Some((from, Refusal::Denied)) if writes >= from => {
                Err(Error::PermissionDenied { path: location.to_string(), source: "403 Forbidden".into() })
            }
            _ => Ok(()),
        }
    }

    /// Writes so far.
    pub(crate) fn writes(&self) -> u64 {
        self.0.writes.load(Relaxed)
    }

    fn fraction(&self) -> f64 {
        self.0.dice.lock().unwrap_or_else(PoisonError::into_inner).fraction()
    }

    async fn silence(&self) {
        tokio::time::sleep(self.0.faults.silence).await;
    }
}

fn reset() -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "connection reset by the test");
    Error::Generic { store: "flaky", source: Box::new(source) }
}

struct FlakyStore {
    inner: Arc<dyn ObjectStore>,
    flaky: Flaky,
}

impl FlakyStore {
    /// Before a request.
    async fn before(&self, kind: Option<&'static str>) -> Result<()> {
        match kind {
            Some("error") => Err(reset()),
            Some("silence") => {
                self.flaky.silence().await;
                Err(reset())
            }
            _ => Ok(()),
        }
    }
}

/// After a request: the server did it, and nobody hears of it.
fn after<T>(kind: Option<&'static str>, result: Result<T>) -> Result<T> {
    if kind == Some("lost answer") && result.is_ok() { Err(reset()) } else { result }
}

const READS: [&str; 4] = ["error", "silence", "broken body", "short body"];
const WRITES: [&str; 3] = ["error", "silence", "lost answer"];

#[async_trait]
impl ObjectStore for FlakyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let kind = self.flaky.throw(&WRITES);
        self.before(kind).await?;
        self.flaky.write(location)?;
        after(kind, self.inner.put_opts(location, payload, opts).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before(self.flaky.throw(&["error"])).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(FlakyUpload { inner, flaky: self.flaky.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = self.flaky.throw(if options.head { &READS[..2] } else { &READS });
        self.before(kind).await?;
        let got = self.inner.get_opts(location, options).await?;
        let (meta, range, attributes, extensions) =
            (got.meta.clone(), got.range.clone(), got.attributes.clone(), got.extensions.clone());
        let length = range.end - range.start;
        let stream = match kind {
            Some(kind @ ("broken body" | "short body")) => {
                let keep = (length as f64 * self.flaky.fraction()) as u64;
                cut(got.into_stream(), keep, kind == "broken body")
            }
            _ => got.into_stream(),
        };
        Ok(GetResult { payload: GetResultPayload::Stream(stream), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let kind = self.flaky.throw(&["error", "lost answer"]);
        match kind {
            Some("error") => futures::stream::once(async { Err(reset()) }).boxed(),
            _ => self.inner.delete_stream(locations).map(move |result| after(kind, result)).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.inner.list(prefix);
        match self.flaky.throw(&["broken listing"]) {
            None => listed,
            Some(_) => {
                let keep = (self.flaky.fraction() * 10.0) as usize;
                listed.take(keep).chain(futures::stream::once(async { Err(reset()) })).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before(self.flaky.throw(&["error"])).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.before(self.flaky.throw(&["error"])).await?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// The first `keep` bytes; then an error, or nothing as if it were the end.
fn cut(
    stream: BoxStream<'static, Result<Bytes>>,
    keep: u64,
    with_error: bool,
) -> BoxStream<'static, Result<Bytes>> {
    let kept = stream.scan(keep, |left, piece| {
        let piece = match piece {
            Ok(_) if *left == 0 => None,
            Ok(bytes) => {
                let now = bytes.len().min(*left as usize);
                *left -= now as u64;
                Some(Ok(bytes.slice(..now)))
            }
            Err(error) => Some(Err(error)),
        };
        std::future::ready(piece)
    });
    let end = futures::stream::iter(with_error.then(|| Err(reset())));
    kept.chain(end).boxed()
}

#[derive(Debug)]
struct FlakyUpload {
    inner: Box<dyn MultipartUpload>,
    flaky: Flaky,
}

#[async_trait]
impl MultipartUpload for FlakyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let kind = self.flaky.throw(&["error", "lost answer"]);
        let part = self.inner.put_part(data);
        async move {
            match kind {
                Some("error") => Err(reset()),
                kind => after(kind, part.await),
            }
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let kind = self.flaky.throw(&["error", "lost answer"]);
        if kind == Some("error") {
            return Err(reset());
        }
        after(kind, self.inner.complete().await)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

impl fmt::Debug for FlakyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlakyStore({:?})", self.inner)
    }
}

impl fmt::Debug for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flaky")
    }
}

impl fmt::Display for FlakyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlakyStore({})", self.inner)
    }
}
