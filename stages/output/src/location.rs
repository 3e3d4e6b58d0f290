//! The location of an output: opened for writing, and compared with another.

use std::{
    fs,
    io::ErrorKind::NotFound,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use recaption_store::{Location, StoreError, StoreKind, Stores};

use crate::layout::{COMMITS, INTERNAL, REPORT, TABLES};

/// Age from which a staged upload belongs to no living worker.
const STALE_UPLOAD: Duration = Duration::from_secs(3600);

/// Returns the location of an output that is to be written. On this machine, uploads that a killed run left behind are
/// deleted.
///
/// # Errors
/// Returns an error as [`locate_output`] does, and for stale uploads that cannot be deleted.
pub fn open_output(stores: &mut Stores, url: &str) -> Result<Location, StoreError> {
    let output = locate_output(stores, url)?;
    if output.kind == StoreKind::Local {
        delete_stale_uploads(&output)?;
    }
    Ok(output)
}

/// Returns the location of an output, and changes nothing there.
///
/// # Errors
/// Returns an error for a URL that names no usable location, and for a store that cannot be written.
pub fn locate_output(stores: &mut Stores, url: &str) -> Result<Location, StoreError> {
    let output = stores.locate(url)?;
    let read_only = |what: &str| StoreError::Url { url: output.url(), what: what.to_owned() };
    match output.kind {
        StoreKind::Http => {
            return Err(read_only("the output cannot be on a web server, which cannot be written to"));
        }
        StoreKind::Hub => {
            return Err(read_only(
                "the output cannot be on the Hugging Face hub, which cannot be written to",
            ));
        }
        StoreKind::Local | StoreKind::Bucket => {}
    }
    Ok(output)
}

/// Deletes incomplete files of killed runs. object_store stages local uploads as `NAME#N` and renames them; readers do not
/// see them, but they would accumulate. Younger ones may belong to another worker.
fn delete_stale_uploads(output: &Location) -> Result<(), StoreError> {
    let root = output.local_path();
    for folder in TABLES {
        if fs::symlink_metadata(root.join(folder)).is_ok_and(|meta| meta.is_symlink()) {
            tracing::info!(folder, "this folder of the output is a link; parts are written to its target");
        }
    }
    let internal = root.join(INTERNAL);
    let mut folders: Vec<PathBuf> = TABLES.iter().map(|table| root.join(table)).collect();
    let below = fs::read_dir(&internal).into_iter().flatten().flatten();
    folders.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    folders.extend([internal, root.clone()]);
    for folder in folders {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let staged = name.rsplit_once('#').filter(|(_, n)| n.parse::<u32>().is_ok());
            // The output's own folder may hold files of others.
            let staged = staged.is_some_and(|(of, _)| folder != root || of == REPORT);
            let modified = entry.metadata().and_then(|meta| meta.modified());
            let stale = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > STALE_UPLOAD));
            if staged && stale {
                let removed = fs::remove_file(entry.path());
                // Another process may have removed it.
                if let Err(e) = removed.or_else(|e| if e.kind() == NotFound { Ok(()) } else { Err(e) }) {
                    let what = format!("cannot delete this stale upload: {e}");
                    let url = format!("file://{}", entry.path().display());
                    return Err(StoreError::Record { url, what });
                }
            }
        }
    }
    Ok(())
}

/// Returns whether two locations are the same or one contains the other, also through links and mounts.
#[must_use]
pub fn overlap(a: &Location, b: &Location) -> bool {
    if a.kind == StoreKind::Local && b.kind == StoreKind::Local {
        let (a, b) = (resolved(&a.local_path()), resolved(&b.local_path()));
        return a.starts_with(&b) || b.starts_with(&a) || is_inside(&a, &b) || is_inside(&b, &a);
    }
    let (a, b) = (segments(a), segments(b));
    let shorter = a.len().min(b.len());
    a[..shorter] == b[..shorter]
}

/// Returns whether `inner` is `outer`, one of the folders of an output in it, or inside of one of them, compared by device
/// and inode: a folder that is mounted twice has two paths.
fn is_inside(inner: &Path, outer: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let known = [".", INTERNAL, COMMITS].into_iter().chain(TABLES);
    let known: Vec<_> = known.filter_map(|name| id(&outer.join(name))).collect();
    inner.ancestors().filter_map(id).any(|id| known.contains(&id))
}

/// Returns a path with links resolved, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return real.join(rest);
        }
    }
    path.to_owned()
}

/// Returns store and path in segments. Schemes of the same store are one.
fn segments(location: &Location) -> Vec<String> {
    let url = location.url();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
    let scheme = match scheme {
        "s3a" => "s3",
        "azure" | "adl" | "abfs" | "abfss" => "az",
        other => other,
    };
    let segments = rest.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned);
    std::iter::once(scheme.to_owned()).chain(segments).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn overlapping_locations_are_recognised() {
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
        fs::create_dir(&real).expect("a folder");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        let mut stores = Stores::default();
        let a = stores.locate(&real.to_string_lossy()).expect("a path");
        let b = stores.locate(&link.join("new").to_string_lossy()).expect("a path");
        assert!(overlap(&a, &b));
    }

    #[test]
    fn only_stale_uploads_are_deleted() {
        let dir = tempfile::tempdir().expect("a folder");
        let old = SystemTime::now() - 2 * STALE_UPLOAD;
        let mut kept = Vec::new();
        for folder in [".", "captions", "_recaption", "_recaption/lists"] {
            fs::create_dir_all(dir.path().join(folder)).expect("a folder");
            for (name, modified, stays) in [
                ("part#7", old, folder == "."),
                ("report.html#1", old, false),
                ("part#8", SystemTime::now(), true),
                ("part", old, true),
                ("part#x", old, true),
            ] {
                let path = dir.path().join(folder).join(name);
                fs::File::create(&path).and_then(|file| file.set_modified(modified)).expect("a file");
                kept.push((path, stays));
            }
        }
        open_output(&mut Stores::default(), &dir.path().to_string_lossy()).expect("an output");
        for (path, stays) in kept {
            assert_eq!(path.exists(), stays, "{}", path.display());
        }
    }

    #[test]
    fn web_servers_are_no_outputs() {
        let error = open_output(&mut Stores::default(), "https://host.example/out").expect_err("read only");
        assert!(error.to_string().contains("cannot be on a web server"), "{error}");
    }
}
