//! The preview's folder: what lies there, and whose it is.

use std::path::{Path, PathBuf};

use anyhow::Context;
use recaption_output::overlap;
use recaption_store::Stores;

use super::record::PreviewRecord;
use crate::config::{ConfigError, RunConfig};

/// The page.
const PAGE: &str = "report.html";
/// The record.
const RECORD: &str = "preview.json";

/// Returns the path of the page.
pub(super) fn page(dir: &Path) -> PathBuf {
    dir.join(PAGE)
}

/// Refuses a folder that holds anything but an earlier preview, or belongs to the output. Writes nothing.
///
/// # Errors
/// When it is refused.
pub(super) fn check(dir: &Path, config: &RunConfig) -> anyhow::Result<()> {
    let refuse = |what: String| ConfigError { origin: "--dir".to_owned(), what };
    if dir.exists() && !dir.is_dir() {
        return Err(refuse(format!("{} is not a folder", dir.display())).into());
    }
    let foreign = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .find(|name| name != PAGE && name != RECORD);
    if let Some(name) = foreign {
        let what = format!("{} holds {}, which is not a preview's", dir.display(), name.display());
        return Err(refuse(format!("{what}; choose another folder")).into());
    }
    let mut stores = Stores::new(config.stores);
    // An output that cannot be located, or that is not on this machine, is not this folder.
    let output = stores.locate(&config.output.url).ok().filter(|_| !config.output.url.is_empty());
    let inside = stores.locate(&dir.to_string_lossy()).ok().zip(output);
    if inside.is_some_and(|(dir, output)| overlap(&dir, &output)) {
        let what = format!("{} overlaps the output, to which a preview writes nothing", dir.display());
        return Err(refuse(format!("{what}; choose another folder")).into());
    }
    Ok(())
}

/// Writes page and record.
///
/// # Errors
/// When they cannot be written.
pub(super) fn write(dir: &Path, html: &str, record: &PreviewRecord) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let record = format!("{}\n", serde_json::to_string_pretty(record)?);
    for (path, text) in [(page(dir), html), (dir.join(RECORD), record.as_str())] {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
