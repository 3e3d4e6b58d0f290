//! A store in memory whose every request waits until the explorer responds to it.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    path::Path,
};
use recaption_schemas::sha256_hex;

/// The objects of the store.
pub(crate) type Objects = BTreeMap<String, Arc<[u8]>>;

/// A request.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Request {
    Get(String),
    Delete(String),
    List(String),
    /// Conditional: there is no such object.
    Create(String, Vec<u8>),
    /// Conditional: the object has this entity tag.
    Update(String, Vec<u8>, String),
    Put(String, Vec<u8>),
}

/// The response to a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Response {
    Done,
    Refused,
    Missing,
    Object(Arc<[u8]>),
    Names(Vec<(String, u64)>),
    /// The request was carried out, but its response was lost.
    Lost,
}

impl Request {
    /// Carries out the request.
    pub(crate) fn apply(&self, objects: &mut Objects) -> Response {
        match self {
            Self::Get(path) => {
                objects.get(path).map_or(Response::Missing, |there| Response::Object(Arc::clone(there)))
            }
            Self::Delete(path) => objects.remove(path).map_or(Response::Missing, |_| Response::Done),
            Self::List(prefix) => {
                let below = objects.iter().filter(|(path, _)| path.starts_with(&format!("{prefix}/")));
                Response::Names(below.map(|(path, there)| (path.clone(), there.len() as u64)).collect())
            }
            Self::Create(path, _) if objects.contains_key(path) => Response::Refused,
            Self::Update(path, _, tag) if objects.get(path).is_none_or(|there| tag_of(there) != *tag) => {
                Response::Refused
            }
            Self::Create(path, bytes) | Self::Update(path, bytes, _) | Self::Put(path, bytes) => {
                objects.insert(path.clone(), bytes.as_slice().into());
                Response::Done
            }
        }
    }

    /// Returns whether the request is a write, of which a lost response matters.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self, Self::Get(_) | Self::List(_))
    }
}

/// Returns an entity tag, which as in S3 depends on the content.
fn tag_of(bytes: &[u8]) -> String {
    sha256_hex(bytes)[..16].to_owned()
}

struct Slot {
    request: Option<Request>,
    response: Option<Response>,
    waker: Option<Waker>,
}

/// Requests in flight, the oldest first.
#[derive(Clone, Default)]
pub(crate) struct RequestQueue(Arc<Mutex<Vec<Arc<Mutex<Slot>>>>>);

impl RequestQueue {
    /// Returns the oldest request without a response.
    pub(crate) fn oldest(&self) -> Option<Request> {
        let queue = self.0.lock().expect("one thread");
        queue.first().and_then(|slot| slot.lock().expect("one thread").request.clone())
    }

    /// Responds to it.
    pub(crate) fn response(&self, response: Response) {
        let slot = self.0.lock().expect("one thread").remove(0);
        let mut slot = slot.lock().expect("one thread");
        slot.response = Some(response);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }

    fn ask(&self, request: Request) -> PendingResponse {
        let slot = Arc::new(Mutex::new(Slot { request: Some(request), response: None, waker: None }));
        self.0.lock().expect("one thread").push(Arc::clone(&slot));
        PendingResponse(slot)
    }
}

struct PendingResponse(Arc<Mutex<Slot>>);

impl Future for PendingResponse {
    type Output = Response;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        let mut slot = self.0.lock().expect("one thread");
        match slot.response.take() {
            Some(response) => Poll::Ready(response),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The store as one worker sees it. It retries when a response is lost, as every store of a run does.
#[derive(Clone)]
pub(crate) struct ModelStore {
    pub queue: RequestQueue,
}

impl ModelStore {
    async fn ask(&self, request: Request) -> Response {
        loop {
            match self.queue.ask(request.clone()).await {
                Response::Lost => {}
                response => return response,
            }
        }
    }
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("model")
    }
}

impl fmt::Display for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("model")
    }
}

fn missing(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: "model".into() }
}

fn meta(path: Path, size: u64, e_tag: Option<String>) -> ObjectMeta {
    ObjectMeta { location: path, last_modified: chrono::DateTime::UNIX_EPOCH, size, e_tag, version: None }
}

#[async_trait]
impl ObjectStore for ModelStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (path, bytes) = (location.to_string(), Bytes::from(payload).to_vec());
        let e_tag = Some(tag_of(&bytes));
        let (request, is_update) = match opts.mode {
            PutMode::Overwrite => (Request::Put(path.clone(), bytes), false),
            PutMode::Create => (Request::Create(path.clone(), bytes), false),
            PutMode::Update(version) => {
                (Request::Update(path.clone(), bytes, version.e_tag.unwrap_or_default()), true)
            }
        };
        match self.ask(request).await {
            Response::Done => Ok(PutResult { e_tag, version: None, extensions: Default::default() }),
            _ if is_update => Err(Error::Precondition { path, source: "model".into() }),
            _ => Err(Error::AlreadyExists { path, source: "model".into() }),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "model".into() })
    }

    async fn get_opts(&self, location: &Path, _: GetOptions) -> Result<GetResult> {
        let Response::Object(there) = self.ask(Request::Get(location.to_string())).await else {
            return Err(missing(location));
        };
        let range: Range<u64> = 0..there.len() as u64;
        let bytes = Bytes::from(there.to_vec());
        Ok(GetResult {
            meta: meta(location.clone(), range.end, Some(tag_of(&bytes))),
            payload: GetResultPayload::Stream(stream::once(async move { Ok(bytes) }).boxed()),
            range,
            attributes: Attributes::new(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    match store.ask(Request::Delete(location.to_string())).await {
                        Response::Done => Ok(location),
                        _ => Err(missing(&location)),
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.map(ToString::to_string).unwrap_or_default());
        let names = async move {
            let Response::Names(names) = store.ask(Request::List(prefix)).await else { return Vec::new() };
            names.into_iter().map(|(path, size)| Ok(meta(Path::from(path), size, None))).collect()
        };
        names.map(stream::iter).flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "list".into(), implementer: "model".into() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "model".into() })
    }
}
