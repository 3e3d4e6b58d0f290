//! Shards of scenes as files.

use std::{
    fs::{self, File},
    io::{BufWriter, IntoInnerError},
    path::Path,
};

use anyhow::Context;

use super::{alt_text::TextKind, shard::write_shard};

/// Writes one shard beside `path` and renames it, so that a listing shows whole shards alone; returns its size in bytes.
///
/// # Errors
/// Fails when the file cannot be written or [`write_shard`] fails. A partial file is removed.
pub fn write_shard_file(
    path: &Path,
    seed: u64,
    shard: u32,
    samples: u32,
    text: TextKind,
) -> anyhow::Result<u64> {
    let partial = path.with_extension("tar.partial");
    let written = write_partial(&partial, seed, shard, samples, text)
        .and_then(|bytes| fs::rename(&partial, path).map(|()| bytes).context("cannot be renamed"));
    written.with_context(|| {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
        format!("cannot write {}", path.display())
    })
}

fn write_partial(path: &Path, seed: u64, shard: u32, samples: u32, text: TextKind) -> anyhow::Result<u64> {
    let writer = write_shard(BufWriter::new(File::create(path)?), seed, shard, samples, text)?;
    let file = writer.into_inner().map_err(IntoInnerError::into_error)?;
    Ok(file.metadata()?.len())
}
