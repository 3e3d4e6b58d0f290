//! The demo's folder: what lies where, and whose it is.

use std::path::{Path, PathBuf};

use anyhow::Context;
use recaption_onnx::Bundled;

/// File that marks a folder as the demo's.
const MARKER: &str = ".recaption-demo";

/// Files of one captioner in the demo's folder.
pub(super) struct CaptionerPaths {
    pub(super) checkpoint: PathBuf,
    /// The exported model.
    pub(super) model: PathBuf,
    /// Output of the run.
    pub(super) output: PathBuf,
}

impl CaptionerPaths {
    /// Returns the paths of a captioner below `dir`.
    pub(super) fn new(captioner: Bundled, dir: &Path) -> Self {
        let [checkpoint, model, output] = match captioner {
            Bundled::Base => ["checkpoint", "model", "output"],
            Bundled::Ssc => ["checkpoint-short", "model-short", "out-short"],
            Bundled::Dsc => ["checkpoint-descriptive", "model-descriptive", "out-descriptive"],
        }
        .map(|name| dir.join(name));
        Self { checkpoint, model, output }
    }
}

/// Returns the folder of the shards.
pub(super) fn shards(dir: &Path) -> PathBuf {
    dir.join("shards")
}

/// Returns the path of the page.
pub(super) fn page(dir: &Path) -> PathBuf {
    dir.join("report.html")
}

/// Creates `dir` or takes over an earlier demo's, whose shards and rows are deleted: scenes of both would be shown.
///
/// # Errors
/// Fails when `dir` holds anything else, or cannot be written.
pub(super) fn claim(dir: &Path) -> anyhow::Result<()> {
    let marker = dir.join(MARKER);
    if marker.exists() {
        let outputs = Bundled::ALL.map(|captioner| CaptionerPaths::new(captioner, dir).output);
        for old in outputs.into_iter().chain([shards(dir)]).filter(|old| old.exists()) {
            std::fs::remove_dir_all(&old).with_context(|| format!("cannot delete {}", old.display()))?;
        }
    } else if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        anyhow::bail!("{} is not empty and not an earlier demo's; choose another --dir", dir.display());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    std::fs::write(&marker, "`recaption demo` replaces the contents of this folder.\n")
        .with_context(|| format!("cannot write {}", marker.display()))
}
