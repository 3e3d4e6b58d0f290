//! huggingface_hub's cache on disk, read and written so that both programs share it.
//!
//! ```text
//! CACHE/models--ORG--NAME/refs/REVISION                 the commit that a branch or tag had last
//! CACHE/models--ORG--NAME/blobs/ETAG                    a file's bytes, named by their hash
//! CACHE/models--ORG--NAME/snapshots/COMMIT/FILE         a link to the bytes
//! CACHE/.locks/models--ORG--NAME/ETAG.lock              flock, held while a file is downloaded
//! ```
//!
//! Files are complete or absent: they are written beside their place and renamed. A download that is under way has a name of
//! its own (`ETAG.recaption.incomplete`), which huggingface_hub ignores.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    error::PullError,
    files::{FileChoice, PulledFile, PulledModel},
    name::{HubModel, is_commit},
};
use crate::hub::address::cache_home;

/// Folder of the locks.
const LOCKS: &str = ".locks";

/// The cache's folder.
pub(super) struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// Finds the folder by huggingface_hub's variables.
    pub(super) fn from_lookup(lookup: &impl Fn(&str) -> Option<String>) -> Result<Self, PullError> {
        let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let named = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let expand = |text: String| match (text.strip_prefix("~/"), set("HOME")) {
            (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
            _ => PathBuf::from(text),
        };
        let root = named.map(expand).or_else(|| Some(cache_home(&set)?.join("hub")));
        let root = root.ok_or_else(|| {
            PullError::Settings(
                "no folder for downloaded models: set HF_HOME, HF_HUB_CACHE or HOME".to_owned(),
            )
        })?;
        Ok(Self { root })
    }

    /// Returns a model's part of the cache.
    pub(super) fn model(&self, model: &HubModel) -> CachedModel {
        let folder = format!("models--{}", model.name().replace('/', "--"));
        CachedModel { dir: self.root.join(&folder), locks: self.root.join(LOCKS).join(folder) }
    }

    /// Returns the error of a model that is not here where the hub is not asked.
    pub(super) fn offline_error(&self, model: &HubModel, why: &str) -> PullError {
        let model = model.to_string();
        let name = model.trim_start_matches("hf://").to_owned();
        PullError::Offline { model, name, cache: self.root.clone(), why: why.to_owned() }
    }
}

/// Makes an error of an input or output error at a path.
pub(super) fn disk(path: &Path) -> impl FnOnce(io::Error) -> PullError {
    let path = path.to_owned();
    move |source| PullError::Disk { path, source }
}

/// A model's part of the cache.
pub(super) struct CachedModel {
    dir: PathBuf,
    locks: PathBuf,
}

impl CachedModel {
    /// Returns the folder of a commit's files.
    pub(super) fn snapshot_dir(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// Returns the path of a file's bytes.
    pub(super) fn blob(&self, e_tag: &str) -> PathBuf {
        self.dir.join("blobs").join(e_tag)
    }

    /// Returns the path of the bytes that are there of a download under way.
    pub(super) fn incomplete(&self, e_tag: &str) -> PathBuf {
        self.dir.join("blobs").join(format!("{e_tag}.recaption.incomplete"))
    }

    /// Opens the file whose lock is held while a file is downloaded.
    pub(super) fn lock_file(&self, e_tag: &str) -> Result<fs::File, PullError> {
        let path = self.locks.join(format!("{e_tag}.lock"));
        fs::create_dir_all(&self.locks).map_err(disk(&self.locks))?;
        fs::File::options().create(true).append(true).open(&path).map_err(disk(&path))
    }

    /// Returns the commit that a revision had last.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.dir.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers the commit of a branch or tag.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), PullError> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.dir.join("refs").join(revision);
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).map_err(disk(parent))?;
        // Without a line end, as huggingface_hub reads it.
        replace(&path, |partial| fs::write(partial, commit))
    }

    /// Returns a file of a commit, if it is complete here.
    pub(super) fn file(&self, commit: &str, name: &str) -> Option<PulledFile> {
        let meta = fs::metadata(self.snapshot_dir(commit).join(name)).ok().filter(fs::Metadata::is_file)?;
        Some(PulledFile { name: name.to_owned(), bytes: meta.len(), is_new: false })
    }

    /// Returns the chosen files of a commit, if all required ones are here.
    pub(super) fn snapshot(&self, commit: &str, choices: &[FileChoice]) -> Option<PulledModel> {
        let mut files = Vec::new();
        for choice in choices {
            match choice.files(|file| self.file(commit, file).is_some()) {
                Some(form) => files.extend(form.iter().filter_map(|file| self.file(commit, file))),
                None if choice.is_required => return None,
                None => {}
            }
        }
        Some(PulledModel { dir: self.snapshot_dir(commit), commit: commit.to_owned(), files })
    }

    /// Links a file of a commit to its bytes.
    pub(super) fn link(&self, commit: &str, name: &str, e_tag: &str) -> Result<(), PullError> {
        let path = self.snapshot_dir(commit).join(name);
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).map_err(disk(parent))?;
        let up = "../".repeat(2 + name.matches('/').count());
        let target = format!("{up}blobs/{e_tag}");
        replace(&path, |partial| {
            // A file system without links gets a copy.
            std::os::unix::fs::symlink(&target, partial)
                .or_else(|_| fs::copy(self.blob(e_tag), partial).map(drop))
        })
    }
}

/// Makes a file beside its place and renames it.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), PullError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let partial =
        path.with_file_name(format!(".{name}.{}.{:08x}.tmp", std::process::id(), fastrand::u32(..)));
    let made = make(&partial).and_then(|()| fs::rename(&partial, path));
    made.map_err(|source| {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
        PullError::Disk { path: path.to_owned(), source }
    })
}
