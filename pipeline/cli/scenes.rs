//! `recaption scenes --out DIR`: shards of the synthetic scenes dataset as files, to try, test and train with.
//!
//! Shards are written in parallel on rayon by [`write_shard_file`].

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::Path,
};

use anyhow::{Context, bail};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::args::{ScenesArgs, TextArg};
use crate::terminal::print;
use crate::{
    config::ConfigError,
    run::ExitCode,
    scenes::{MAX_SHARDS, TRUE_PAIR, TextKind, key, write_shard_file},
};

/// Writes the shards and prints one line.
pub(super) fn scenes(args: &ScenesArgs) -> anyhow::Result<ExitCode> {
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
        TextArg::Alt => (TextKind::Alt, "alt texts"),
        TextArg::Short => (TextKind::Short, "short captions"),
        TextArg::Descriptive => (TextKind::Descriptive, "descriptive captions"),
        TextArg::Pairs => (TextKind::Pairs, "true and false captions"),
    };
    fs::create_dir_all(out).with_context(|| format!("cannot create the folder {}", out.display()))?;
    let path_of = |shard: u32| out.join(format!("{shard:05}.tar"));
    // All paths are checked before anything is drawn.
    numbers.clone().try_for_each(|shard| check_path(&path_of(shard), shard))?;
    let bytes = numbers
        .clone()
        .into_par_iter()
        .map(|shard| write_shard_file(&path_of(shard), *seed, shard, *samples, text))
        .try_reduce(|| 0, |a, b| Ok(a + b))?;
    let last = if *shards > 1 { format!(" to {:05}.tar", numbers.end - 1) } else { String::new() };
    print(&format!(
        "{}{last}: {} scenes with {words}, seed {seed}, {:.1} MB\n",
        path_of(*first).display(),
        u64::from(*shards) * u64::from(*samples),
        bytes as f64 / 1e6
    ));
    Ok(ExitCode::Done)
}

/// Checks that `path` is free or holds an earlier shard of scenes of the same number.
///
/// # Errors
/// Fails when it holds anything else, which is not replaced.
fn check_path(path: &Path, shard: u32) -> anyhow::Result<()> {
    let is_dir = match fs::metadata(path) {
        Ok(meta) => meta.is_dir(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot access {}", path.display())),
    };
    if is_dir || !begins_as_shard(path, shard).with_context(|| format!("cannot read {}", path.display()))? {
        bail!(
            "{} exists and is not a shard of scenes, so it is not replaced; move it or choose another --out",
            path.display()
        );
    }
    Ok(())
}

/// Returns whether a file's first member is the first image of such a shard.
fn begins_as_shard(path: &Path, shard: u32) -> std::io::Result<bool> {
    let mut archive = tar::Archive::new(File::open(path)?);
    // A file that cannot be read as a tar is not a shard.
    let Some(Ok(first)) = archive.entries()?.next() else { return Ok(false) };
    let key = key(shard, 0);
    let names = [format!("{key}.jpg"), format!("{key}-{TRUE_PAIR}.jpg")];
    Ok(names.iter().any(|name| *first.path_bytes() == *name.as_bytes()))
}
