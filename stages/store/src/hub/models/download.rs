//! One file of a model: from the hub, or the server that it redirects to, into the cache.
//!
//! A download holds the file's lock, goes on at the byte where an earlier one stopped, and is compared with its SHA-256, which
//! is the entity tag of large files. Only then it gets its name.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use object_store::{Error, GetRange};
use recaption_schemas::hex;
use reqwest::{Method, StatusCode};
use sha2::{Digest, Sha256};

use super::{
    HubModel, HubModels, PullError, PullProgress, PulledFile,
    cache::{CachedModel, disk},
};
use crate::{
    ErrorKind,
    hub::client::{HubRequest, HubResponse, invalid_response, transport_error},
};

/// Pause between two looks at a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(200);
/// Length of a SHA-256 in hexadecimal digits: entity tags of this length are one.
const SHA256_DIGITS: usize = 64;
/// Longest entity tag that becomes a file's name.
const MAX_TAG_BYTES: usize = 128;
/// Bytes that are read at once from what is there already.
const READ_BYTES: usize = 1 << 20;

/// What the hub says about a file.
struct Announced {
    e_tag: String,
    size: u64,
}

/// One file to be downloaded.
struct Job<'a> {
    /// The file's URL, `hf://ORG/NAME/FILE`, for errors.
    object: String,
    model: String,
    commit: &'a str,
    name: &'a str,
    parts: Vec<&'a str>,
    announced: Announced,
}

impl HubModels {
    /// Returns a file of a commit, downloaded where the cache lacks it.
    pub(super) async fn file(
        &self,
        model: &HubModel,
        cached: &CachedModel,
        commit: &str,
        name: &str,
        progress: &(dyn Fn(PullProgress<'_>) + Sync),
    ) -> Result<PulledFile, PullError> {
        if let Some(found) = cached.file(commit, name) {
            return Ok(found);
        }
        let parts: Vec<&str> = model.parts().chain(["resolve", commit]).chain(name.split('/')).collect();
        let object = format!("{model}/{name}");
        let announced = self.announced(&parts, &object).await;
        let announced = announced.map_err(|source| PullError::Hub { model: object.clone(), source })?;
        let job = Job { object, model: model.to_string(), commit, name, parts, announced };
        let _lock = self.lock(cached, &job).await?;
        let (e_tag, bytes) = (&job.announced.e_tag, job.announced.size);
        let blob = cached.blob(e_tag);
        // Another process may have downloaded it meanwhile, or another commit have the same bytes.
        let is_new = fs::metadata(&blob).map_or(true, |meta| meta.len() != bytes);
        if is_new {
            self.download(cached, &job, &blob, progress).await?;
        }
        cached.link(job.commit, job.name, e_tag)?;
        Ok(PulledFile { name: name.to_owned(), bytes, is_new })
    }

    /// Requests a file's entity tag and size. Broken connections are tried again.
    async fn announced(&self, parts: &[&str], object: &str) -> Result<Announced, Error> {
        let mut budget = self.settings.retry.budget();
        loop {
            let error = match self.announced_once(parts, object).await {
                Ok(announced) => return Ok(announced),
                Err(error) => error,
            };
            let is_transient = ErrorKind::of(&error) == ErrorKind::Transient;
            let Some(pause) = is_transient.then(|| budget.next_pause(None)).flatten() else {
                return Err(error);
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn announced_once(&self, parts: &[&str], object: &str) -> Result<Announced, Error> {
        let url = self.client.url(parts.iter().copied())?;
        let request = HubRequest { method: Method::HEAD, url, range: None, stop_at_redirect: true, object };
        let response = self.client.send(&request).await?;
        let status = response.response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.client.status_error(&response, object));
        }
        let size = response.object.size.or_else(|| response.length().filter(|_| status == StatusCode::OK));
        let is_safe = |tag: &String| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            tag.len() <= MAX_TAG_BYTES && tag.bytes().all(known)
        };
        match (response.object.e_tag.filter(is_safe), size) {
            (Some(e_tag), Some(size)) => Ok(Announced { e_tag, size }),
            (None, _) => Err(invalid_response("the file's entity tag is missing or malformed")),
            (_, None) => Err(invalid_response("the file's size is missing")),
        }
    }

    /// Takes the file's lock, which the returned file holds until it is dropped.
    async fn lock(&self, cached: &CachedModel, job: &Job<'_>) -> Result<File, PullError> {
        let file = cached.lock_file(&job.announced.e_tag)?;
        let mut is_first = true;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => {
                    return Err(disk(&cached.blob(&job.announced.e_tag))(source));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if std::mem::take(&mut is_first) {
                tracing::info!(file = job.object, "another process downloads this file; waiting for it");
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// Downloads a file to its place.
    async fn download(
        &self,
        cached: &CachedModel,
        job: &Job<'_>,
        blob: &Path,
        progress: &(dyn Fn(PullProgress<'_>) + Sync),
    ) -> Result<(), PullError> {
        let path = cached.incomplete(&job.announced.e_tag);
        let parent = blob.parent().unwrap_or(blob);
        fs::create_dir_all(parent).map_err(disk(parent))?;
        let size = job.announced.size;
        let mut partial = Partial::open(&path, size)?;
        if partial.len > 0 {
            tracing::info!(file = job.object, bytes = partial.len, size, "resuming the download");
        }
        let mut budget = self.settings.retry.budget();
        loop {
            let before = partial.len;
            let error = match self.attempt(job, &mut partial, progress).await {
                Ok(()) => break,
                Err(Interrupted::Disk(error)) => return Err(error),
                Err(Interrupted::Hub(error)) => error,
            };
            if partial.len > before {
                budget.reset();
            }
            let is_transient = ErrorKind::of(&error) == ErrorKind::Transient;
            let Some(pause) = is_transient.then(|| budget.next_pause(None)).flatten() else {
                return Err(PullError::Hub { model: job.object.clone(), source: error });
            };
            tracing::debug!(
                file = job.object,
                error = crate::user_message(&error),
                "download interrupted; resuming"
            );
            tokio::time::sleep(pause).await;
        }
        partial.finish(job, blob)
    }

    /// Requests what is missing of a file and writes it.
    async fn attempt(
        &self,
        job: &Job<'_>,
        partial: &mut Partial,
        progress: &(dyn Fn(PullProgress<'_>) + Sync),
    ) -> Result<(), Interrupted> {
        let size = job.announced.size;
        let shown = |bytes| progress(PullProgress { file: job.name, bytes, size });
        shown(partial.len);
        if partial.len == size {
            return Ok(());
        }
        let range = (partial.len > 0).then(|| GetRange::Offset(partial.len).to_string());
        let url = self.client.url(job.parts.iter().copied())?;
        let request =
            HubRequest { method: Method::GET, url, range, stop_at_redirect: false, object: &job.object };
        let mut response = self.client.send(&request).await?;
        if !self.check(job, partial.len, &response)? {
            partial.restart()?;
        }
        while let Some(bytes) = response.response.chunk().await.map_err(|error| transport_error(&error))? {
            if partial.len + bytes.len() as u64 > size {
                return Err(invalid_response("more bytes than the file has").into());
            }
            partial.write(&bytes)?;
            shown(partial.len);
        }
        if partial.len < size {
            let cause = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection ended early");
            return Err(Error::Generic { store: "Hugging Face hub", source: Box::new(cause) }.into());
        }
        Ok(())
    }

    /// Checks that a response is of the announced file; returns whether its body begins at byte `from`.
    fn check(&self, job: &Job<'_>, from: u64, response: &HubResponse) -> Result<bool, Error> {
        let size = job.announced.size;
        let is_same = response.object.e_tag.as_ref().is_none_or(|tag| *tag == job.announced.e_tag);
        match response.response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT if !is_same => {
                Err(invalid_response("the file changed while it was downloaded"))
            }
            StatusCode::OK => match response.length() {
                Some(length) if length != size => {
                    Err(invalid_response("the file has another size than announced"))
                }
                _ => Ok(from == 0),
            },
            StatusCode::PARTIAL_CONTENT => match response.content_range() {
                Some((first, _, whole)) if first == from && whole == size => Ok(true),
                _ => Err(invalid_response("a range that was not requested")),
            },
            _ => Err(self.client.status_error(response, &job.object)),
        }
    }
}

/// Why an attempt ended.
enum Interrupted {
    Disk(PullError),
    Hub(Error),
}

impl From<PullError> for Interrupted {
    fn from(error: PullError) -> Self {
        Self::Disk(error)
    }
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Self {
        Self::Hub(error)
    }
}

/// The bytes of a file that are there, and their hash.
struct Partial {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64,
}

impl Partial {
    /// Opens what an earlier download left, at most `size` bytes, or a new file.
    fn open(path: &Path, size: u64) -> Result<Self, PullError> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(disk(path))?;
        let mut partial = Self { path: path.to_owned(), file, hasher: Sha256::new(), len: 0 };
        if partial.file.metadata().map_err(disk(path))?.len() > size {
            partial.restart()?;
            return Ok(partial);
        }
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = partial.file.read(&mut buffer).map_err(disk(path))?;
            if count == 0 {
                return Ok(partial);
            }
            partial.hasher.update(&buffer[..count]);
            partial.len += count as u64;
        }
    }

    /// Drops all bytes.
    fn restart(&mut self) -> Result<(), PullError> {
        self.file.set_len(0).map_err(disk(&self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(disk(&self.path))?;
        (self.hasher, self.len) = (Sha256::new(), 0);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        self.file.write_all(bytes).map_err(disk(&self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Compares the bytes with their announced hash, and gives the file its name.
    fn finish(self, job: &Job<'_>, blob: &Path) -> Result<(), PullError> {
        let expected = &job.announced.e_tag;
        let found = hex(&self.hasher.finalize());
        if expected.len() == SHA256_DIGITS && !found.eq_ignore_ascii_case(expected) {
            fs::remove_file(&self.path).map_err(disk(&self.path))?;
            return Err(PullError::Damaged {
                model: job.model.clone(),
                file: job.name.to_owned(),
                what: format!("its SHA-256 is {found}, the hub announced {expected}"),
            });
        }
        self.file.sync_all().map_err(disk(&self.path))?;
        fs::rename(&self.path, blob).map_err(disk(blob))
    }
}
