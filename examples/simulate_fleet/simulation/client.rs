//! The bucket as one process sees it: latency, bandwidth and faults, and the attempts that a cloud client makes by itself.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use recaption_store::RetryPolicy;
use tokio::time::sleep;

use super::{
    limits::RequestKind,
    objects::{Bucket, Content, PAGE},
};

/// Bytes of one piece of an input shard's body.
const PIECE: usize = 32 << 20;
/// Longest duration of a request, by the cloud clients of recaption-store.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);
/// Standard deviation of the logarithm of a request's time: one in a hundred takes four times the median.
const LATENCY_SPREAD: f64 = 0.6;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// The network between a process and the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    /// Median time of a request that reads or writes an object, without its body.
    pub latency: Duration,
    /// Median time of a page of a listing.
    pub page_latency: Duration,
    /// Bandwidth of one body, in bytes per second.
    pub bytes_per_second: f64,
    /// Share of requests whose connection breaks before they are carried out, or in the middle of a body.
    pub resets: f64,
    /// Share of requests that are carried out and whose response is lost.
    pub lost_responses: f64,
    /// Share of requests that are never answered.
    pub silent: f64,
}

impl Network {
    /// S3 from a machine in the same region: 30 ms for an object, 100 ms for a page, 200 MB/s.
    pub(crate) const REGIONAL: Self = Self {
        latency: Duration::from_millis(30),
        page_latency: Duration::from_millis(100),
        bytes_per_second: 200e6,
        resets: 0.0,
        lost_responses: 0.0,
        silent: 0.0,
    };

    /// Draws the time of a request: log-normal around the median, the slowest percent takes four times as long.
    fn draw(&self, kind: RequestKind) -> Duration {
        let median = if kind == RequestKind::List { self.page_latency } else { self.latency };
        median.mul_f64((LATENCY_SPREAD * normal(fastrand::f64)).exp())
    }
}

/// Draws from the standard normal distribution (Box and Muller).
pub(crate) fn normal(mut uniform: impl FnMut() -> f64) -> f64 {
    let (u, v) = (1.0 - uniform(), uniform());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Requests of one process, with their times after its start.
pub(crate) type Recording = Arc<Mutex<Vec<(Duration, RequestKind, String)>>>;

/// A client of one process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    bucket: Arc<Bucket>,
    network: Network,
    /// Attempts after 503 SlowDown, as the cloud clients of object_store make them.
    policy: RetryPolicy,
    recording: Option<(Duration, Recording)>,
}

impl Client {
    /// Returns a client with these attempts of its own.
    pub(crate) fn new(bucket: Arc<Bucket>, network: Network, policy: RetryPolicy) -> Self {
        Self { bucket, network, policy, recording: None }
    }

    /// Returns a client that records its requests from now on.
    pub(crate) fn recorded(&self, recording: Recording) -> Self {
        Self { recording: Some((self.bucket.elapsed(), recording)), ..self.clone() }
    }

    /// Makes one request. `carry_out` runs when the store has it, in the middle of the request's time: a process that is
    /// killed before or after leaves the store as a real one would.
    async fn request<T>(
        &self,
        (kind, path, weight): (RequestKind, &str, usize),
        carry_out: impl FnOnce(&Bucket) -> Result<T>,
    ) -> Result<T> {
        if let Some((began, recording)) = &self.recording {
            let request = (self.bucket.elapsed() - *began, kind, path.to_owned());
            recording.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
        let mut budget = self.policy.budget();
        loop {
            let time = self.network.draw(kind);
            sleep(time / 2).await;
            if self.bucket.admit(kind, path, weight as f64) {
                let draw = fastrand::f64();
                let Network { resets, lost_responses, silent, .. } = self.network;
                if draw < resets {
                    return Err(broken("connection reset by peer"));
                }
                if draw < resets + silent {
                    sleep(CLIENT_TIMEOUT).await;
                    return Err(broken("no response"));
                }
                let result = carry_out(&self.bucket);
                if draw < resets + silent + lost_responses {
                    return Err(broken("connection closed before the response"));
                }
                sleep(time / 2).await;
                return result;
            }
            sleep(time / 2).await;
            let Some(pause) = budget.next_pause(None) else {
                let retries = self.policy.retries;
                return Err(Error::Generic {
                    store: "simulated",
                    source: format!("503 Slow Down after {retries} retries, max_retries: {retries}").into(),
                });
            };
            sleep(pause).await;
        }
    }

    /// Makes a request without a result, as another process made it: only its cost counts.
    pub(crate) async fn repeat(&self, kind: RequestKind, path: &str) -> Result<()> {
        self.request((kind, path, 1), |_| Ok(())).await
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { RequestKind::Head } else { RequestKind::Get };
        let request = (kind, location.as_ref(), 1);
        let (meta, content) = self.request(request, |bucket| bucket.get(location)).await?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range
                .as_range(meta.size)
                .map_err(|e| Error::Generic { store: "simulated", source: e.to_string().into() })?,
            None => 0..meta.size,
        };
        let body = match content {
            _ if options.head => stream::empty().boxed(),
            Content::Stored(bytes) => {
                let bytes = bytes.slice(range.start as usize..range.end as usize);
                stream::iter([Ok(bytes)]).boxed()
            }
            Content::Zeros => self.zeros(range.clone()),
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(body),
            meta,
            range,
            attributes: Attributes::new(),
            extensions: Default::default(),
        })
    }

    /// The body of an input shard, at the bandwidth of the network.
    fn zeros(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        let network = self.network;
        let pieces = stream::try_unfold(range.start, move |at| async move {
            if at >= range.end {
                return Ok(None);
            }
            let bytes = (range.end - at).min(PIECE as u64);
            let time = Duration::from_secs_f64(bytes as f64 / network.bytes_per_second);
            if fastrand::f64() < network.resets {
                sleep(time / 2).await;
                return Err(broken("connection reset by peer"));
            }
            sleep(time).await;
            Ok(Some((Bytes::from_static(&ZEROS[..bytes as usize]), at + bytes)))
        });
        pieces.boxed()
    }

    fn pages(&self, prefix: String, after: String) -> BoxStream<'static, Result<ObjectMeta>> {
        let client = self.clone();
        let pages = stream::try_unfold(Some(after), move |after| {
            let (client, prefix) = (client.clone(), prefix.clone());
            async move {
                let Some(after) = after else { return Ok::<_, Error>(None) };
                let path = format!("{prefix}/");
                let request = (RequestKind::List, path.as_str(), 1);
                let page = client.request(request, |bucket| Ok(bucket.page(&prefix, &after))).await?;
                let more = (page.len() == PAGE).then(|| page.last().map(|meta| meta.location.to_string()));
                Ok(Some((stream::iter(page.into_iter().map(Ok)), more.flatten())))
            }
        });
        pages.try_flatten().boxed()
    }
}

fn broken(what: &str) -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::ConnectionReset, what.to_owned());
    Error::Generic { store: "simulated", source: source.into() }
}

fn not_simulated(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.into(), implementer: "simulated".into() }
}

#[async_trait]
impl ObjectStore for Client {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload);
        self.request((RequestKind::Put, location.as_ref(), 1), |bucket| {
            bucket.put(location, bytes, &opts.mode)
        })
        .await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_simulated("uploads in pieces"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.get(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let client = self.clone();
        let deleted = locations.ready_chunks(PAGE).then(move |batch| {
            let client = client.clone();
            async move {
                let paths: Vec<Path> = batch.into_iter().filter_map(Result::ok).collect();
                let first = paths.first().map(Path::to_string).unwrap_or_default();
                let delete = |bucket: &Bucket| {
                    paths.iter().for_each(|path| bucket.delete(path));
                    Ok(())
                };
                let request = (RequestKind::Delete, first.as_str(), paths.len());
                match client.request(request, delete).await {
                    Ok(()) => stream::iter(paths.into_iter().map(Ok).collect::<Vec<_>>()),
                    Err(error) => stream::iter(vec![Err(error)]),
                }
            }
        });
        deleted.flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix.map(Path::to_string).unwrap_or_default(), String::new())
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix.map(Path::to_string).unwrap_or_default(), offset.to_string())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.map(Path::to_string).unwrap_or_default();
        let (level, pages) = self.bucket.level(&prefix);
        let path = format!("{prefix}/");
        for _ in 0..pages {
            self.request((RequestKind::List, &path, 1), |_| Ok(())).await?;
        }
        Ok(level)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_simulated("copies"))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated bucket")
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated bucket")
    }
}
