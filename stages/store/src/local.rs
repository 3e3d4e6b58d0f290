//! This machine's file system, whatever its entries are called.
//!
//! [`LocalFileSystem`] supports names that are text without control characters, and its listing ends at the first entry that
//! it cannot list. Here every name has a path ([`path_text`] escapes what is not text), and entries that cannot be listed are
//! skipped, with one warning per listing: circular and dangling links, unreadable folders, pipes and devices.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File, Metadata, OpenOptions},
    io::ErrorKind,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    local::LocalFileSystem, path::Path,
};
use recaption_schemas::{name_bytes, path_text};

/// Skipped entries of one listing that the warning names.
const MAX_EXAMPLES: usize = 3;

/// This machine's file system.
#[derive(Debug)]
pub(crate) struct LocalStore {
    inner: Arc<LocalFileSystem>,
}

impl LocalStore {
    /// Returns the whole file system. Written files are synced: a commit record must not outlive its parts when the power fails.
    pub(crate) fn new() -> Self {
        let inner = LocalFileSystem::new().with_automatic_cleanup(false).with_fsync(true);
        Self { inner: Arc::new(inner) }
    }

    /// Returns the store's path of an absolute path without `.` and `..`.
    ///
    /// # Errors
    /// Returns an error for a path that object_store cannot represent.
    pub(crate) fn path_of(path: &FsPath) -> std::result::Result<Path, object_store::path::Error> {
        let parts: Vec<String> = path
            .components()
            .filter_map(|part| match part {
                std::path::Component::Normal(name) => Some(path_segment(name.as_bytes())),
                _ => None,
            })
            .collect();
        Path::parse(parts.join("/"))
    }

    /// Refuses names that [`LocalFileSystem`] does not support. `what` is the operation, in errors.
    fn check_plain(location: &Path, what: &str) -> Result<()> {
        if is_plain(location) {
            return Ok(());
        }
        let source = format!("names that are not plain text cannot be {what}");
        Err(Error::NotSupported { source: source.into() })
    }
}

/// Returns the path segment of a name.
fn path_segment(name: &[u8]) -> String {
    let text = path_text(name);
    // object_store takes a name with such an end for an upload in flight.
    match text.split_once('#') {
        Some((before, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{before}\\x23{number}")
        }
        _ => text,
    }
}

/// Returns whether a path is the name itself, without escapes.
fn is_plain(location: &Path) -> bool {
    name_bytes(location.as_ref()) == location.as_ref().as_bytes()
}

/// Returns the path on this machine, with escapes resolved.
pub(crate) fn file_path(location: &Path) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(location.parts().map(|part| OsString::from_vec(name_bytes(part.as_ref()))));
    path
}

/// Returns a file's metadata as [`LocalFileSystem`] does.
fn describe(location: Path, metadata: &Metadata) -> ObjectMeta {
    let modified = metadata.modified().unwrap_or(std::time::UNIX_EPOCH);
    let micros = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros();
    let etag = format!("\"{:x}-{micros:x}-{:x}\"", metadata.ino(), metadata.len());
    ObjectMeta {
        location,
        last_modified: modified.into(),
        size: metadata.len(),
        e_tag: Some(etag),
        version: None,
    }
}

fn error_of(location: &Path, source: std::io::Error) -> Error {
    let path = location.to_string();
    match source.kind() {
        ErrorKind::NotFound => Error::NotFound { path, source: source.into() },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: source.into() },
        _ => Error::Generic { store: "local files", source: source.into() },
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::from)?
}

/// A listing.
#[derive(Default)]
struct Walk {
    files: Vec<ObjectMeta>,
    folders: Vec<Path>,
    /// Number of skipped entries.
    skipped: u64,
    /// The first skipped entries, with the reason.
    examples: Vec<String>,
}

/// A folder to be listed.
struct PendingFolder {
    path: PathBuf,
    location: Path,
    /// Device and inode of the folder and of those above it.
    ancestors: Vec<(u64, u64)>,
}

impl Walk {
    /// Lists a folder, and those below it if `recursive`.
    fn list(location: &Path, recursive: bool) -> Result<Self> {
        let path = file_path(location);
        let mut walk = Self::default();
        let ancestors = fs::metadata(&path).map(|metadata| vec![(metadata.dev(), metadata.ino())]);
        let ancestors = ancestors.unwrap_or_default();
        let mut open = vec![PendingFolder { path: path.clone(), location: location.clone(), ancestors }];
        while let Some(folder) = open.pop() {
            let entries = match fs::read_dir(&folder.path) {
                Ok(entries) => entries,
                Err(error) if folder.path == path => match error.kind() {
                    ErrorKind::NotFound | ErrorKind::NotADirectory => return Ok(walk),
                    _ => return Err(error_of(location, error)),
                },
                Err(error) => {
                    walk.skip(&folder.location, &error);
                    continue;
                }
            };
            for entry in entries {
                match entry {
                    Ok(entry) => walk.entry(&folder, &entry.file_name(), recursive, &mut open),
                    Err(error) => walk.skip(&folder.location, &error),
                }
            }
        }
        if walk.skipped > 0 {
            tracing::warn!(
                folder = %path.display(),
                entries = walk.skipped,
                first = walk.examples.join("; "),
                "skipped entries that cannot be listed"
            );
        }
        Ok(walk)
    }

    fn entry(
        &mut self,
        folder: &PendingFolder,
        name: &std::ffi::OsStr,
        recursive: bool,
        open: &mut Vec<PendingFolder>,
    ) {
        let path = folder.path.join(name);
        let segment = path_segment(name.as_bytes());
        let Ok(location) = Path::parse(format!("{}/{segment}", folder.location)) else {
            return self.skip(&folder.location, &format!("{segment} is not a valid name"));
        };
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return,
            Err(error) => return self.skip(&location, &error),
        };
        if metadata.is_file() {
            self.files.push(describe(location, &metadata));
        } else if metadata.is_dir() {
            let identity = (metadata.dev(), metadata.ino());
            if folder.ancestors.contains(&identity) {
                return self.skip(&location, &"a link to a folder above it");
            }
            if recursive {
                let ancestors = folder.ancestors.iter().copied().chain([identity]).collect();
                open.push(PendingFolder { path, location, ancestors });
            } else {
                self.folders.push(location);
            }
        } else {
            self.skip(&location, &"neither a file nor a folder");
        }
    }

    fn skip(&mut self, location: &Path, why: &dyn fmt::Display) {
        self.skipped += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(format!("{location}: {why}"));
        }
    }
}

/// Opens or creates a file that is to be locked; never one behind a link.
///
/// # Errors
/// Returns an error when the file system fails, or the path is a link, a folder or a device.
pub fn open_lock_file(path: &FsPath) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if let Ok(meta) = path.symlink_metadata()
        && !meta.is_file()
    {
        let what = "it is a link or not a regular file; move it away";
        return Err(std::io::Error::new(ErrorKind::InvalidInput, what));
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        Self::check_plain(location, "written")?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Self::check_plain(location, "written")?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if is_plain(location) {
            return self.inner.get_opts(location, options).await;
        }
        let location = location.clone();
        blocking(move || {
            let path = file_path(&location);
            let failed = |error| error_of(&location, error);
            let metadata = fs::metadata(&path).map_err(failed)?;
            if !metadata.is_file() {
                return Err(failed(ErrorKind::NotFound.into()));
            }
            let file = File::open(&path).map_err(failed)?;
            let meta = describe(location.clone(), &metadata);
            options.check_preconditions(&meta)?;
            let range = match &options.range {
                Some(range) => range
                    .as_range(meta.size)
                    .map_err(|e| Error::Generic { store: "local files", source: e.into() })?,
                None => 0..meta.size,
            };
            let payload = GetResultPayload::File(file, path);
            Ok(GetResult {
                payload,
                meta,
                range,
                attributes: Attributes::default(),
                extensions: Extensions::default(),
            })
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let plain = locations.map(|location| {
            let location = location?;
            Self::check_plain(&location, "deleted")?;
            Ok(location)
        });
        self.inner.delete_stream(plain.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let walk = blocking(move || Walk::list(&prefix, true)).into_stream();
        walk.map_ok(|walk| stream::iter(walk.files.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix).try_filter(move |meta| std::future::ready(meta.location > offset)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let walk = blocking(move || Walk::list(&prefix, false)).await?;
        let mut common_prefixes = walk.folders;
        common_prefixes.sort();
        Ok(ListResult { common_prefixes, objects: walk.files, extensions: Extensions::default() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        Self::check_plain(from, "copied")?;
        Self::check_plain(to, "written")?;
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn any_file_name_is_listed_and_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        let names: [&[u8]; 6] = [b"caf\xe9.jpg", b"caf\xe8.jpg", b"a\tb", b"a\nb#12", b"x\\x41", b"plain"];
        fs::create_dir(root.join("sub")).expect("a folder");
        for name in names {
            fs::write(root.join("sub").join(OsString::from_vec(name.to_vec())), name).expect("a file");
        }
        for (link, target) in [("loop", "../sub"), ("self", "self"), ("nowhere", "gone"), ("twice", "plain")]
        {
            std::os::unix::fs::symlink(target, root.join("sub").join(link)).expect("a link");
        }
        let (store, root_path) = (LocalStore::new(), LocalStore::path_of(&root).expect("a path"));
        let found: Vec<ObjectMeta> = store.list(Some(&root_path)).try_collect().await.expect("a listing");
        assert_eq!(found.len(), names.len() + 1, "{found:#?}");
        for meta in &found {
            let read = store.get(&meta.location).await.expect("it is there").bytes().await.expect("bytes");
            assert_eq!(read.len() as u64, meta.size);
            let part = store.get_range(&meta.location, 1..3).await.expect("a range");
            assert_eq!(part, read.slice(1..3));
            let name = name_bytes(meta.location.filename().expect("a name"));
            assert!(name == b"twice" || name == read, "{name:?}");
            let described = store.head(&meta.location).await.expect("it is there");
            assert_eq!((&described.e_tag, described.size), (&meta.e_tag, meta.size));
        }
        let level = store.list_with_delimiter(Some(&root_path)).await.expect("a level");
        assert_eq!((level.common_prefixes.len(), level.objects.len()), (1, 0));
        let odd = found.iter().find(|meta| !is_plain(&meta.location)).expect("an odd name");
        assert!(store.put(&odd.location, "x".into()).await.is_err(), "odd names are not written");
        assert!(store.list(Some(&root_path.clone().join("gone"))).next().await.is_none());
    }
}
