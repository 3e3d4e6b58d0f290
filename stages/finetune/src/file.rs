//! Files that are replaced atomically.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// The error of the file system.
    pub source: std::io::Error,
}

/// Marks the names of files that are being written.
pub(crate) const PARTIAL_MARK: &str = ".partial-";

/// Writes a file beside `path`, syncs it and renames it: after a crash `path` is the old or the new file, never a part.
///
/// # Errors
/// Fails when the folder cannot be written or the disk is full; the old file stays, the partial one is removed.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let name = path.file_name().map_or("file".into(), |n| n.to_string_lossy().into_owned());
    let partial = path.with_file_name(format!(".{name}{PARTIAL_MARK}{}", std::process::id()));
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        // The directory entry must survive a power failure too.
        match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&partial);
        WriteError { path: path.to_owned(), source }
    })
}
