//! The files of a model: those that are wanted, and those that are there.

use std::path::PathBuf;

/// A part of a model that comes in one of several forms.
#[derive(Clone, Copy, Debug)]
pub struct FileChoice {
    /// The files of each form; the first form whose files all exist is taken.
    pub forms: &'static [&'static [&'static str]],
    /// Whether a model without any of the forms is an error.
    pub is_required: bool,
}

impl FileChoice {
    /// Returns the files of the first form that is there.
    pub(super) fn files(&self, exists: impl Fn(&str) -> bool) -> Option<&'static [&'static str]> {
        self.forms.iter().copied().find(|form| form.iter().all(|file| exists(file)))
    }
}

/// How far the download of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullProgress<'a> {
    /// The file's name in the model.
    pub file: &'a str,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of the whole file.
    pub size: u64,
}

/// A file of a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledFile {
    /// Its name in the model.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it was downloaded now; else the cache had it.
    pub is_new: bool,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledModel {
    /// The folder of its files: the snapshot of the commit.
    pub dir: PathBuf,
    /// The commit's hash.
    pub commit: String,
    /// The files that were chosen.
    pub files: Vec<PulledFile>,
}
