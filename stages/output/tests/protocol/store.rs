//! A store in memory of which every request waits until the explorer answers it.

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

/// What lies in the store.
pub type Objects = BTreeMap<String, Arc<[u8]>>;

/// A request.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Request {
    Get(String),
    Delete(String),
    List(String),
    /// On the condition that there is none.
    Create(String, Vec<u8>),
    /// On the condition that there is one with this entity tag.
    Update(String, Vec<u8>, String),
    Put(String, Vec<u8>),
}

/// Its answer.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused,
    Missing,
    Object(Arc<[u8]>),
    Names(Vec<(String, u64)>),
    /// The request was carried out, and nobody knows.
    Lost,
}

impl Request {
    /// Carries it out.
    pub fn apply(&self, objects: &mut Objects) -> Answer {
        match self {
            Self::Get(path) => {
                objects.get(path).map_or(Answer::Missing, |there| Answer::Object(Arc::clone(there)))
            }
            Self::Delete(path) => objects.remove(path).map_or(Answer::Missing, |_| Answer::Done),
            Self::List(prefix) => {
                let below = objects.iter().filter(|(path, _)| path.starts_with(&format!("{prefix}/")));
                Answer::Names(below.map(|(path, there)| (path.clone(), there.len() as u64)).collect())
            }
            Self::Create(path, _) if objects.contains_key(path) => Answer::Refused,
            Self::Update(path, _, tag) if objects.get(path).is_none_or(|there| tag_of(there) != *tag) => {
                Answer::Refused
            }
            Self::Create(path, bytes) | Self::Update(path, bytes, _) | Self::Put(path, bytes) => {
                objects.insert(path.clone(), bytes.as_slice().into());
                Answer::Done
            }
        }
    }

    /// Whether the answer may be lost in a way that matters.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Get(_) | Self::List(_))
    }
}

/// S3's entity tags are of the content.
fn tag_of(bytes: &[u8]) -> String {
    sha256_hex(bytes)[..16].to_owned()
}

struct Slot {
    request: Option<Request>,
    answer: Option<Answer>,
    waker: Option<Waker>,
}

/// Requests under way, the oldest first.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Vec<Arc<Mutex<Slot>>>>>);

impl Desk {
    /// The oldest request without an answer.
    pub fn oldest(&self) -> Option<Request> {
        let desk = self.0.lock().expect("one thread");
        desk.first().and_then(|slot| slot.lock().expect("one thread").request.clone())
    }

    /// Answers it.
    pub fn answer(&self, answer: Answer) {
        let slot = self.0.lock().expect("one thread").remove(0);
        let mut slot = slot.lock().expect("one thread");
        slot.answer = Some(answer);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }

    fn ask(&self, request: Request) -> Asked {
        let slot = Arc::new(Mutex::new(Slot { request: Some(request), answer: None, waker: None }));
        self.0.lock().expect("one thread").push(Arc::clone(&slot));
        Asked(slot)
    }
}

struct Asked(Arc<Mutex<Slot>>);

impl Future for Asked {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut slot = self.0.lock().expect("one thread");
        match slot.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The store as one worker sees it. Takes another attempt when an answer is lost, as every store of a run does.
#[derive(Clone)]
pub struct ModelStore {
    pub desk: Desk,
}

impl ModelStore {
    async fn ask(&self, request: Request) -> Answer {
        loop {
            match self.desk.ask(request.clone()).await {
                Answer::Lost => {}
                answer => return answer,
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
            Answer::Done => Ok(PutResult { e_tag, version: None, extensions: Default::default() }),
            _ if is_update => Err(Error::Precondition { path, source: "model".into() }),
            _ => Err(Error::AlreadyExists { path, source: "model".into() }),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "model".into() })
    }

    async fn get_opts(&self, location: &Path, _: GetOptions) -> Result<GetResult> {
        let Answer::Object(there) = self.ask(Request::Get(location.to_string())).await else {
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
                        Answer::Done => Ok(location),
                        _ => Err(missing(&location)),
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.map(ToString::to_string).unwrap_or_default());
        let names = async move {
            let Answer::Names(names) = store.ask(Request::List(prefix)).await else { return Vec::new() };
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
