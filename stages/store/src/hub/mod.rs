//! Datasets on the Hugging Face hub as a read-only store: `hf://datasets/ORG/NAME[@REVISION]/PATH`. Models are downloaded into
//! a cache instead (`models`).
//!
//! A revision is resolved to its commit once, at the first request: everything read through one [`Hub`] is of that commit.
//! Listings and URLs come from the hub; the bytes most often from the CDN that it redirects to, without the token. Why this
//! is no library's client: `docs/src/decisions/0045-hub-client.md`.

mod address;
mod client;
mod models;

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, HeaderMap, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    path::Path,
};
use reqwest::{Method, Response, StatusCode, header::LINK};
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;

pub use address::{Dataset, HubSettings};
use client::{HubClient, HubRequest, HubResponse, ObjectHeaders, generic, invalid_response, transport_error};
pub use models::{FileChoice, HubModel, HubModels, PullError, PullProgress, PulledFile, PulledModel};

use crate::StoreSettings;

/// Entries of one page of a listing.
const PAGE_SIZE: &str = "1000";

/// A dataset's files at one commit. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    dataset: Dataset,
    client: HubClient,
    /// The commit's hash, once it is resolved.
    commit: OnceCell<String>,
}

/// The hub's JSON of a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// A listing's JSON of a file or folder.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: Option<String>,
    lfs: Option<Lfs>,
}

/// A listing's JSON of a file in Git LFS.
#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: Option<u64>,
}

impl Entry {
    fn meta(&self) -> Result<ObjectMeta> {
        let location = Path::parse(&self.path)?;
        let (oid, size) = match &self.lfs {
            Some(lfs) => (Some(lfs.oid.trim_start_matches("sha256:")), lfs.size),
            None => (self.oid.as_deref(), None),
        };
        Ok(meta(location, size.unwrap_or(self.size), oid.map(str::to_owned)))
    }
}

/// Returns an object's metadata. The modification time would take many more requests; entity tags identify versions.
fn meta(location: Path, size: u64, e_tag: Option<String>) -> ObjectMeta {
    ObjectMeta { location, last_modified: DateTime::UNIX_EPOCH, size, e_tag, version: None }
}

impl Hub {
    /// Returns the dataset's files; nothing is requested yet.
    ///
    /// # Errors
    /// Returns an error when TLS cannot be set up.
    pub fn new(dataset: Dataset, hub: HubSettings, settings: StoreSettings) -> Result<Self> {
        let client = HubClient::new(hub, settings)?;
        Ok(Self { inner: Arc::new(Inner { dataset, client, commit: OnceCell::new() }) })
    }
}

impl Inner {
    /// Returns the canonical URL of a path.
    fn url(&self, path: &Path) -> String {
        format!("{}/{path}", self.dataset)
    }

    /// Returns the hash of the revision's commit, resolved once.
    async fn commit(&self) -> Result<&str> {
        let resolve = || async {
            let what = ["revision", self.dataset.revision()];
            let url =
                self.client.url(["api", "datasets"].into_iter().chain(self.dataset.parts()).chain(what))?;
            let dataset = self.dataset.to_string();
            let (revision, _) = self.client.json::<Revision>(url, &dataset).await?;
            if revision.sha.is_empty() || !revision.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(invalid_response("the revision's commit is not a hash"));
            }
            tracing::debug!(dataset, commit = revision.sha, "resolved hub revision");
            Ok(revision.sha)
        };
        Ok(self.commit.get_or_try_init(resolve).await?)
    }

    /// Returns the URL of a listing's first page.
    async fn tree(&self, folder: &Path, recursive: bool) -> Result<Url> {
        let (name, commit) = (self.dataset.parts(), self.commit().await?);
        let parts = ["api", "datasets"].into_iter().chain(name).chain(["tree", commit]);
        let mut url =
            self.client.url(parts.chain(folder.as_ref().split('/').filter(|part| !part.is_empty())))?;
        let mut query = url.query_pairs_mut();
        query
            .append_pair("recursive", if recursive { "true" } else { "false" })
            .append_pair("limit", PAGE_SIZE);
        drop(query);
        Ok(url)
    }

    /// Returns one page of a listing and the URL of the next one.
    async fn page(&self, url: Url, folder: &Path, first: bool) -> Result<(Vec<Entry>, Option<Url>)> {
        let (entries, headers) = match self.client.json(url.clone(), &self.url(folder)).await {
            // The commit exists, so the folder does not; no other store lists missing folders as errors either. A missing
            // further page is a broken listing.
            Err(Error::NotFound { .. }) if first => return Ok((Vec::new(), None)),
            other => other?,
        };
        let Some(next) = next_link(&headers) else { return Ok((entries, None)) };
        let next = url.join(next).map_err(|_| invalid_response("the URL of the next page is invalid"))?;
        if !self.client.is_own(&next) {
            let host = next.host_str().unwrap_or_default();
            return Err(invalid_response(&format!("the next page is on another server, {host}")));
        }
        if next == url {
            return Err(invalid_response("a page links to itself"));
        }
        Ok((entries, Some(next)))
    }

    /// Returns the page of a recursive listing at a cursor, and the next cursor.
    async fn next_page(
        &self,
        folder: &Path,
        cursor: Option<Cursor>,
    ) -> Result<Option<(Vec<Entry>, Option<Cursor>)>> {
        let (url, first) = match cursor {
            None => return Ok(None),
            Some(Cursor::First) => (self.tree(folder, true).await?, true),
            Some(Cursor::Page(url)) => (url, false),
        };
        let (entries, next) = self.page(url, folder, first).await?;
        Ok(Some((entries, next.map(Cursor::Page))))
    }

    /// Returns the URL of a file's bytes.
    async fn resolve(&self, path: &Path) -> Result<Url> {
        let (name, commit) = (self.dataset.parts(), self.commit().await?);
        let parts = ["datasets"].into_iter().chain(name).chain(["resolve", commit]);
        self.client.url(parts.chain(path.as_ref().split('/')))
    }

    /// Returns size and entity tag. The CDN is asked only if the hub does not know the size.
    async fn head(&self, path: &Path) -> Result<ObjectMeta> {
        let object = self.url(path);
        let url = self.resolve(path).await?;
        let request =
            HubRequest { method: Method::HEAD, url, range: None, stop_at_redirect: true, object: &object };
        let response = self.client.send(&request).await?;
        let status = response.response.status();
        if !status.is_success() && !status.is_redirection() && status != StatusCode::METHOD_NOT_ALLOWED {
            return Err(self.client.status_error(&response, &object));
        }
        let size = response.object.size.or_else(|| response.length().filter(|_| status == StatusCode::OK));
        if let Some(size) = size {
            return Ok(meta(path.clone(), size, response.object.e_tag));
        }
        let range = Some(GetRange::Bounded(0..1).to_string());
        let request = HubRequest { method: Method::GET, range, stop_at_redirect: false, ..request };
        let response = self.client.send(&request).await?;
        let size = match response.response.status().as_u16() {
            200 => response.length(),
            // An empty file has no range.
            206 | 416 => response.content_range().map(|(_, _, size)| size),
            _ => return Err(self.client.status_error(&response, &object)),
        };
        let size = size.ok_or_else(|| invalid_response("the object's size is missing"))?;
        Ok(meta(path.clone(), size, response.object.e_tag))
    }

    /// Requests an object, or a range of it.
    async fn get(&self, path: &Path, options: &GetOptions) -> Result<(ObjectMeta, Range<u64>, Response)> {
        let object = self.url(path);
        if let Some(range) = &options.range {
            range.is_valid().map_err(|error| generic(&format!("Invalid range: {error}")))?;
        }
        let range = options.range.as_ref().map(ToString::to_string);
        let url = self.resolve(path).await?;
        let request =
            HubRequest { method: Method::GET, url, range, stop_at_redirect: false, object: &object };
        let response = self.client.send(&request).await?;
        let (size, range) = match response.response.status() {
            StatusCode::PARTIAL_CONTENT if options.range.is_some() => {
                let (first, end, size) =
                    response.content_range().ok_or_else(|| invalid_response("Content-Range is missing"))?;
                (size, first..end)
            }
            StatusCode::OK => {
                let size = response.length().or(response.object.size);
                let size = size.ok_or_else(|| invalid_response("the object's size is missing"))?;
                (size, 0..size)
            }
            _ => return Err(self.client.status_error(&response, &object)),
        };
        if let Some(wanted) = &options.range {
            let wanted =
                wanted.as_range(size).map_err(|error| generic(&format!("Invalid range: {error}")))?;
            if wanted != range && response.response.status() == StatusCode::OK {
                // In the words of object_store: a resumed body then skips what it has.
                return Err(Error::NotSupported {
                    source: "Received non-partial response when range requested".into(),
                });
            }
            if wanted != range {
                return Err(invalid_response("a range that was not requested"));
            }
        }
        let HubResponse { response, object: ObjectHeaders { e_tag, .. }, .. } = response;
        Ok((meta(path.clone(), size, e_tag), range, response))
    }

    /// Checks the caller's preconditions.
    fn check(options: &GetOptions, meta: &ObjectMeta) -> Result<()> {
        match meta.e_tag {
            Some(_) => options.check_preconditions(meta),
            // Nothing changes within a commit.
            None => Ok(()),
        }
    }
}

/// The position of a listing.
enum Cursor {
    First,
    Page(Url),
}

/// Returns the URL in `Link: <...>; rel="next"`.
fn next_link(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(LINK).into_iter().filter_map(|value| value.to_str().ok()).find_map(|mut rest| {
        loop {
            let (target, more) = rest.split_once('<')?.1.split_once('>')?;
            let parameters = more.split('<').next().unwrap_or_default();
            if parameters.split([';', ',']).any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next")) {
                return Some(target);
            }
            rest = more;
        }
    })
}

fn read_only<T>() -> Result<T> {
    Err(Error::NotSupported { source: "the Hugging Face hub is read only; write to another store".into() })
}

#[async_trait]
impl ObjectStore for Hub {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        read_only()
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        read_only()
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(Error::NotSupported { source: "the hub's versions are revisions in the URL".into() });
        }
        let (meta, range, payload) = if options.head {
            let meta = self.inner.head(location).await?;
            let size = meta.size;
            (meta, 0..size, futures::stream::empty().boxed())
        } else {
            let (meta, range, response) = self.inner.get(location, &options).await?;
            (meta, range, body(response))
        };
        Inner::check(&options, &meta)?;
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|location| location.and_then(|_| read_only())).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, folder) = (Arc::clone(&self.inner), prefix.cloned().unwrap_or_default());
        let below = folder.clone();
        let pages = futures::stream::try_unfold(Some(Cursor::First), move |cursor| {
            let (inner, folder) = (Arc::clone(&inner), folder.clone());
            async move {
                let page = inner.next_page(&folder, cursor).await?;
                let page =
                    page.map(|(entries, next)| (futures::stream::iter(entries.into_iter().map(Ok)), next));
                Result::<_, Error>::Ok(page)
            }
        });
        pages
            .try_flatten()
            .try_filter_map(|entry: Entry| async move {
                Ok(if entry.kind == "file" { Some(entry.meta()?) } else { None })
            })
            // Entries outside of the requested folder are dropped.
            .try_filter(move |meta| futures::future::ready(meta.location.prefix_matches(&below)))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.cloned().unwrap_or_default();
        let (mut common_prefixes, mut objects) = (Vec::new(), Vec::new());
        let (mut next, mut first) = (Some(self.inner.tree(&folder, false).await?), true);
        while let Some(url) = next {
            let (entries, further) = self.inner.page(url, &folder, first).await?;
            first = false;
            for entry in entries {
                match entry.kind.as_str() {
                    "file" => objects.push(entry.meta()?),
                    "directory" => common_prefixes.push(Path::parse(&entry.path)?),
                    _ => {}
                }
            }
            next = further;
        }
        Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        read_only()
    }
}

/// Returns a response's body. Fused: object_store polls the stream of an empty object after its end.
fn body(response: Response) -> BoxStream<'static, Result<Bytes>> {
    futures::stream::unfold(Some(response), |response| async {
        let mut response = response?;
        match response.chunk().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(response))),
            Ok(None) => None,
            Err(error) => Some((Err(transport_error(&error)), None)),
        }
    })
    .fuse()
    .boxed()
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hub({})", self.inner.dataset)
    }
}

impl fmt::Display for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.dataset.fmt(f)
    }
}
