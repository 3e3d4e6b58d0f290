//! Opens the source and the output of a second pass, which must not overlap.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use recaption_store::{Location, StoreKind, Stores};

use super::job::FilterJob;
use crate::{config::ConfigError, run};

/// Opens source and output.
///
/// # Errors
/// When one of them cannot be used, or one lies inside the other: the source is never written to.
pub fn open_locations(stores: &mut Stores, job: &FilterJob) -> anyhow::Result<(Location, Location)> {
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

/// Returns whether `inner` is `outer` or one of its known folders, or lies inside one, by device and inode: a folder that is
/// mounted twice has two paths.
fn is_inside(inner: &Path, outer: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let known = [".", "captions", "rejects", "_recaption", "_recaption/shards"];
    let known: Vec<_> = known.iter().filter_map(|name| id(&outer.join(name))).collect();
    inner.ancestors().filter_map(id).any(|id| known.contains(&id))
}

/// Resolves links, as far as the path exists.
fn real(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

/// Splits a URL into store and path segments; aliases of a scheme become one.
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
    fn nested_locations_overlap() {
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
    fn links_do_not_hide_an_overlap() {
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
