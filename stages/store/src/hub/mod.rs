//! The Hugging Face hub's datasets as a store that can be read: `hf://datasets/ORG/NAME[@REVISION]/PATH`.
//!
//! A revision is looked up once, at the first request: everything read through one [`Hub`] is of one commit. Listings and
//! addresses come from the hub; the bytes most often from elsewhere, to where it redirects, without the token.

mod address;
mod client;

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
use client::{Answer, Ask, Asker, Linked, broken, generic, invalid};

use super::StoreSettings;

/// The name in errors.
const STORE: &str = "Hugging Face hub";

/// Entries of one page of a listing.
const PAGE: &str = "1000";

/// A dataset's files at one commit. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    dataset: Dataset,
    asker: Asker,
    /// Name of the commit, once it is known.
    commit: OnceCell<String>,
}

/// What the hub says of a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// What a listing says of a file or folder.
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

/// What it says of a file that git holds a pointer to.
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

/// The time of change is not known without many more requests; entity tags tell changes.
fn meta(location: Path, size: u64, e_tag: Option<String>) -> ObjectMeta {
    ObjectMeta { location, last_modified: DateTime::UNIX_EPOCH, size, e_tag, version: None }
}

impl Hub {
    /// The dataset's files; nothing is asked yet.
    ///
    /// # Errors
    /// When no connection can be made ready.
    pub fn new(dataset: Dataset, hub: HubSettings, settings: StoreSettings) -> Result<Self> {
        let asker = Asker::new(hub, settings)?;
        Ok(Self { inner: Arc::new(Inner { dataset, asker, commit: OnceCell::new() }) })
    }
}

impl Inner {
    fn place(&self, path: &Path) -> String {
        format!("{}/{path}", self.dataset)
    }

    /// The commit that the revision names, looked up once.
    async fn commit(&self) -> Result<&str> {
        let ask = || async {
            let what = ["revision", self.dataset.revision()];
            let url =
                self.asker.url(["api", "datasets"].into_iter().chain(self.dataset.parts()).chain(what))?;
            let place = self.dataset.to_string();
            let (revision, _) = self.asker.json::<Revision>(url, &place).await?;
            if revision.sha.is_empty() || !revision.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(invalid("its commit is none"));
            }
            tracing::debug!(dataset = place, commit = revision.sha, "the hub's revision");
            Ok(revision.sha)
        };
        Ok(self.commit.get_or_try_init(ask).await?)
    }

    async fn tree(&self, folder: &Path, recursive: bool) -> Result<Url> {
        let (name, commit) = (self.dataset.parts(), self.commit().await?);
        let parts = ["api", "datasets"].into_iter().chain(name).chain(["tree", commit]);
        let mut url =
            self.asker.url(parts.chain(folder.as_ref().split('/').filter(|part| !part.is_empty())))?;
        let mut query = url.query_pairs_mut();
        query.append_pair("recursive", if recursive { "true" } else { "false" }).append_pair("limit", PAGE);
        drop(query);
        Ok(url)
    }

    /// One page of a listing, and where the next one is.
    async fn page(&self, url: Url, folder: &Path, first: bool) -> Result<(Vec<Entry>, Option<Url>)> {
        let (entries, headers) = match self.asker.json(url.clone(), &self.place(folder)).await {
            // The commit exists, so what is not there is the folder; no other store has empty ones either. A further page
            // that is not there is a listing that broke: what came so far is not all.
            Err(Error::NotFound { .. }) if first => return Ok((Vec::new(), None)),
            other => other?,
        };
        let Some(next) = next_link(&headers) else { return Ok((entries, None)) };
        let next = url.join(next).map_err(|_| invalid("its next page has no address"))?;
        if !self.asker.is_own(&next) {
            let host = next.host_str().unwrap_or_default();
            return Err(invalid(&format!("the next page of its listing is on {host}")));
        }
        if next == url {
            return Err(invalid("a page of its listing is followed by itself"));
        }
        Ok((entries, Some(next)))
    }

    /// The page of a recursive listing that `at` speaks of.
    async fn next_page(
        &self,
        folder: &Path,
        at: Option<Cursor>,
    ) -> Result<Option<(Vec<Entry>, Option<Cursor>)>> {
        let (url, first) = match at {
            None => return Ok(None),
            Some(Cursor::First) => (self.tree(folder, true).await?, true),
            Some(Cursor::Page(url)) => (url, false),
        };
        let (entries, next) = self.page(url, folder, first).await?;
        Ok(Some((entries, next.map(Cursor::Page))))
    }

    async fn resolve(&self, path: &Path) -> Result<Url> {
        let (name, commit) = (self.dataset.parts(), self.commit().await?);
        let parts = ["datasets"].into_iter().chain(name).chain(["resolve", commit]);
        self.asker.url(parts.chain(path.as_ref().split('/')))
    }

    /// Size and entity tag. The server that holds the bytes is asked only where the hub does not know the size.
    async fn head(&self, path: &Path) -> Result<ObjectMeta> {
        let place = self.place(path);
        let url = self.resolve(path).await?;
        let ask = Ask { method: Method::HEAD, url, range: None, stay: true, place: &place };
        let answer = self.asker.send(&ask).await?;
        let status = answer.response.status();
        if !status.is_success() && !status.is_redirection() && status != StatusCode::METHOD_NOT_ALLOWED {
            return Err(self.asker.refused(&answer, &place));
        }
        let size = answer.linked.size.or_else(|| answer.length().filter(|_| status == StatusCode::OK));
        if let Some(size) = size {
            return Ok(meta(path.clone(), size, answer.linked.e_tag));
        }
        let range = Some(GetRange::Bounded(0..1).to_string());
        let ask = Ask { method: Method::GET, range, stay: false, ..ask };
        let answer = self.asker.send(&ask).await?;
        let size = match answer.response.status().as_u16() {
            200 => answer.length(),
            // No byte of an empty file can be had.
            206 | 416 => answer.content_range().map(|(_, _, size)| size),
            _ => return Err(self.asker.refused(&answer, &place)),
        };
        let size = size.ok_or_else(|| invalid("it does not say how large the object is"))?;
        Ok(meta(path.clone(), size, answer.linked.e_tag))
    }

    async fn get(&self, path: &Path, options: &GetOptions) -> Result<(ObjectMeta, Range<u64>, Response)> {
        let place = self.place(path);
        if let Some(range) = &options.range {
            range.is_valid().map_err(|error| generic(&format!("Invalid range: {error}")))?;
        }
        let range = options.range.as_ref().map(ToString::to_string);
        let ask =
            Ask { method: Method::GET, url: self.resolve(path).await?, range, stay: false, place: &place };
        let answer = self.asker.send(&ask).await?;
        let (size, range) = match answer.response.status() {
            StatusCode::PARTIAL_CONTENT if options.range.is_some() => {
                let (first, end, size) =
                    answer.content_range().ok_or_else(|| invalid("a part without its range"))?;
                (size, first..end)
            }
            StatusCode::OK => {
                let size = answer.length().or(answer.linked.size);
                let size = size.ok_or_else(|| invalid("it does not say how large the object is"))?;
                (size, 0..size)
            }
            _ => return Err(self.asker.refused(&answer, &place)),
        };
        if let Some(wanted) = &options.range {
            let wanted =
                wanted.as_range(size).map_err(|error| generic(&format!("Invalid range: {error}")))?;
            if wanted != range && answer.response.status() == StatusCode::OK {
                // In these user_message, because whoever reads on passes over what he has then.
                return Err(Error::NotSupported {
                    source: "Received non-partial response when range requested".into(),
                });
            }
            if wanted != range {
                return Err(invalid("another range than asked for"));
            }
        }
        let Answer { response, linked: Linked { e_tag, .. }, .. } = answer;
        Ok((meta(path.clone(), size, e_tag), range, response))
    }

    /// Whether the object is as the caller wants it.
    fn check(options: &GetOptions, meta: &ObjectMeta) -> Result<()> {
        match meta.e_tag {
            Some(_) => options.check_preconditions(meta),
            // Of one commit nothing changes.
            None => Ok(()),
        }
    }
}

/// Where a listing goes on.
enum Cursor {
    First,
    Page(Url),
}

/// The address in `Link: <...>; rel="next"`.
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
    Err(Error::NotSupported {
        source: "the Hugging Face hub is read only here; write to another store".into(),
    })
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
        let pages = futures::stream::try_unfold(Some(Cursor::First), move |at| {
            let (inner, folder) = (Arc::clone(&inner), folder.clone());
            async move {
                let page = inner.next_page(&folder, at).await?;
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
            // A hub that lists what was not asked for is not believed.
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

/// The bytes as they come. Fused: of an object without bytes object_store asks for more after the end.
fn body(response: Response) -> BoxStream<'static, Result<Bytes>> {
    futures::stream::unfold(Some(response), |response| async {
        let mut response = response?;
        match response.chunk().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(response))),
            Ok(None) => None,
            Err(error) => Some((Err(broken(&error)), None)),
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
