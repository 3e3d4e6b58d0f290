//! Opens an output for writing.

use std::time::Duration;

use anyhow::Context;
use recaption_input::read::LISTS;
use recaption_output::commits::PENDING_DELETIONS;
use recaption_store::{Location, StoreKind, Stores};

pub(crate) fn open_output(stores: &mut Stores, url: &str) -> anyhow::Result<Location> {
    let output = stores.locate(url)?;
    match output.kind {
        StoreKind::Http => anyhow::bail!("output {}: a web server cannot be written to", output.url()),
        StoreKind::Hub => {
            anyhow::bail!("output {}: the Hugging Face hub cannot be written to", output.url());
        }
        StoreKind::Local => remove_stale_uploads(&output)?,
        StoreKind::Bucket => {}
    }
    Ok(output)
}

/// Files that a killed run left half-written. object_store stages local uploads as `NAME#N` and renames them; they are
/// invisible to readers, but would pile up. Younger ones may belong to another worker.
fn remove_stale_uploads(output: &Location) -> anyhow::Result<()> {
    const STALE: Duration = Duration::from_secs(3600);
    let root = output.local_path();
    for folder in ["captions", "rejects"] {
        if std::fs::symlink_metadata(root.join(folder)).is_ok_and(|meta| meta.is_symlink()) {
            tracing::info!(folder, "this folder of the output is a link; parts are written where it points");
        }
    }
    for folder in [
        "captions",
        "rejects",
        "_recaption/shards",
        "_recaption/runs",
        "_recaption/failures",
        "_recaption",
        LISTS,
        PENDING_DELETIONS,
    ] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let staged =
                name.to_string_lossy().rsplit_once('#').is_some_and(|(_, n)| n.parse::<u32>().is_ok());
            let old = entry
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|t| t.elapsed().is_ok_and(|e| e > STALE));
            if staged && old {
                std::fs::remove_file(entry.path())
                    .with_context(|| format!("cannot remove the stale upload {}", entry.path().display()))?;
            }
        }
    }
    Ok(())
}
