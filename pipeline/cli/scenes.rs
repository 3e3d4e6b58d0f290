//! `recaption scenes --out DIR`: shards of the picture world as files, to try, test and train with.
//!
//! What is in a shard is [`write_shard`]'s; here are the files. They are written side by side on rayon, each beside its
//! place and renamed, so that whoever lists the folder sees whole shards alone.

use std::{
    fs::{self, File},
    io::{BufWriter, ErrorKind},
    path::Path,
};

use anyhow::{Context, bail};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::args::{ScenesArgs, TextArg};
use crate::terminal::print;
use crate::{
    config::ConfigError,
    run::ExitCode,
    scenes::{MAX_SHARDS, Text, key, write_shard},
};

/// Writes the shards and tells so in one line.
pub fn scenes(args: &ScenesArgs) -> anyhow::Result<ExitCode> {
    let ScenesArgs { out, shards, samples, first, seed, caption } = args;
    // Both are at most MAX_SHARDS: no overflow.
    let numbers = *first..first + shards;
    if numbers.end > MAX_SHARDS {
        let what = format!(
            "shards {first} to {} do not fit: a seed has shards 0 to {}; use another --seed",
            numbers.end - 1,
            MAX_SHARDS - 1
        );
        return Err(ConfigError { origin: "--first, --shards".to_owned(), what }.into());
    }
    let (text, words) = match caption {
        TextArg::Alt => (Text::Alt, "alt texts"),
        TextArg::Short => (Text::Short, "short captions"),
        TextArg::Descriptive => (Text::Descriptive, "descriptive captions"),
    };
    fs::create_dir_all(out).with_context(|| format!("cannot create the folder {}", out.display()))?;
    let place = |shard: u32| out.join(format!("{shard:05}.tar"));
    // All places are looked at before anything is drawn.
    numbers.clone().try_for_each(|shard| check_place(&place(shard), shard))?;
    let bytes = numbers
        .clone()
        .into_par_iter()
        .map(|shard| write_file(&place(shard), *seed, shard, *samples, text))
        .try_reduce(|| 0, |a, b| Ok(a + b))?;
    let last = if *shards > 1 { format!(" to {:05}.tar", numbers.end - 1) } else { String::new() };
    print(&format!(
        "{}{last}: {} scenes with {words}, seed {seed}, {:.1} MB\n",
        place(*first).display(),
        u64::from(*shards) * u64::from(*samples),
        bytes as f64 / 1e6
    ));
    Ok(ExitCode::Done)
}

/// Whether a shard of this number may be put here: nothing is there, or an earlier shard of scenes of the same number.
fn check_place(path: &Path, shard: u32) -> anyhow::Result<()> {
    let is_dir = match fs::metadata(path) {
        Ok(meta) => meta.is_dir(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    if is_dir || !begins_as_shard(path, shard).with_context(|| format!("cannot read {}", path.display()))? {
        bail!(
            "{} is there and is no shard of scenes: it is not replaced; move it or choose another --out",
            path.display()
        );
    }
    Ok(())
}

/// Whether a file's first member is the first picture of such a shard.
fn begins_as_shard(path: &Path, shard: u32) -> std::io::Result<bool> {
    let mut archive = tar::Archive::new(File::open(path)?);
    // What cannot be read as a tar is none.
    let Some(Ok(first)) = archive.entries()?.next() else { return Ok(false) };
    Ok(*first.path_bytes() == *format!("{}.jpg", key(shard, 0)).as_bytes())
}

/// Writes one shard beside its place and renames it; returns its size in bytes.
///
/// # Errors
/// When the file cannot be written, or [`write_shard`] refuses. What was begun is removed.
pub(crate) fn write_file(
    path: &Path,
    seed: u64,
    shard: u32,
    samples: u32,
    text: Text,
) -> anyhow::Result<u64> {
    let partial = path.with_extension("tar.partial");
    let written = write_partial(&partial, seed, shard, samples, text)
        .and_then(|bytes| fs::rename(&partial, path).map(|()| bytes).context("cannot be renamed"));
    written.with_context(|| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
        format!("cannot write {}", path.display())
    })
}

fn write_partial(path: &Path, seed: u64, shard: u32, samples: u32, text: Text) -> anyhow::Result<u64> {
    let writer = write_shard(BufWriter::new(File::create(path)?), seed, shard, samples, text)?;
    let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(file.metadata()?.len())
}
