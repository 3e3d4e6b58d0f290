//! Where a pass reads and writes: two places that have nothing in common.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use recaption_store::{Location, StoreKind, Stores};

use super::FilterJob;
use crate::{config::ConfigError, run};

/// Opens both places.
///
/// # Errors
/// A place that cannot be used, or one inside the other: the source is never written to.
pub fn open_places(stores: &mut Stores, job: &FilterJob) -> anyhow::Result<(Location, Location)> {
    let source = stores.locate(&job.source)?;
    if source.kind == StoreKind::Http {
        let what = "a web server cannot be listed, and the shards of an output are found by listing";
        return Err(ConfigError { origin: source.url(), what: what.to_owned() }.into());
    }
    let output = run::open_output(stores, &job.output)?;
    if overlap(&source, &output) {
        let what = format!(
            "{} and the source {} lie inside one another; a new dataset goes beside its source",
            output.url(),
            source.url()
        );
        return Err(ConfigError { origin: "--to".to_owned(), what }.into());
    }
    Ok((source, output))
}

fn overlap(a: &Location, b: &Location) -> bool {
    if a.kind == StoreKind::Local && b.kind == StoreKind::Local {
        let (a, b) = (real(&a.local_path()), real(&b.local_path()));
        return a.starts_with(&b) || b.starts_with(&a) || is_inside(&a, &b) || is_inside(&b, &a);
    }
    let (a, b) = (segments(a), segments(b));
    let shorter = a.len().min(b.len());
    a[..shorter] == b[..shorter]
}

/// Whether `inner` is `outer`, a folder that we know in it, or lies in one of them, told by device and inode: a folder that is
/// mounted twice has two paths.
fn is_inside(inner: &Path, outer: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let known = [".", "captions", "rejects", "_recaption", "_recaption/shards"];
    let known: Vec<_> = known.iter().filter_map(|name| id(&outer.join(name))).collect();
    inner.ancestors().filter_map(id).any(|id| known.contains(&id))
}

/// The path without links, as far as it exists: two names of one folder are one folder.
fn real(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

/// Store and path in pieces; schemes that mean the same store are one.
fn segments(location: &Location) -> Vec<String> {
    let url = location.url();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
    let scheme = match scheme {
        "s3a" => "s3",
        "azure" | "adl" | "abfs" | "abfss" => "az",
        other => other,
    };
    let pieces = rest.split('/').filter(|piece| !piece.is_empty()).map(str::to_owned);
    std::iter::once(scheme.to_owned()).chain(pieces).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_inside_one_another_are_known_by_their_pieces() {
        let mut stores = Stores::default();
        let mut both = |a: &str, b: &str| {
            let (a, b) = (stores.locate(a).expect(a), stores.locate(b).expect(b));
            assert_eq!(overlap(&a, &b), overlap(&b, &a));
            overlap(&a, &b)
        };
        for (a, b) in
            [("/data/out", "/data/out/"), ("/data/out", "/data/out/top"), ("/data/x/../out", "/data/out")]
        {
            assert!(both(a, b), "{a} {b}");
        }
        for (a, b) in [("/data/out", "/data/out2"), ("/data/out/a", "/data/out/b"), ("/s3/b", "file:///s3/c")]
        {
            assert!(!both(a, b), "{a} {b}");
        }
    }

    #[test]
    fn links_do_not_hide_a_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::create_dir(&real).expect("a folder");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        let mut stores = Stores::default();
        let a = stores.locate(&real.to_string_lossy()).expect("a path");
        let b = stores.locate(&link.join("new").to_string_lossy()).expect("a path");
        assert!(overlap(&a, &b));
    }
}
