//! Passed self-tests, remembered in a cache folder, so that nightly runs do not pay for one each.
//!
//! A file per [`Circumstances`], named by their hash and holding them: one that cannot be read or holds anything else counts as
//! none. A folder that cannot be written costs a self-test per run and a warning, and nothing else.

use std::path::{Path, PathBuf};

use recaption_schemas::sha256_hex;
use serde::{Deserialize, Serialize};

use super::{Circumstances, SelfTestReport};
use crate::runtime::cache_root;

/// What a file holds.
#[derive(Serialize, Deserialize)]
struct Remembered {
    circumstances: Circumstances,
    /// What was found, for people.
    result: String,
}

/// Where passed self-tests are remembered.
#[derive(Clone, Debug)]
pub struct SelfTestCache {
    dir: PathBuf,
}

impl Default for SelfTestCache {
    /// `self-test` in `RECAPTION_CACHE`, else `XDG_CACHE_HOME/recaption`, else `~/.cache/recaption`.
    fn default() -> Self {
        Self::at(&cache_root())
    }
}

impl SelfTestCache {
    /// In the folder `self-test` of `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { dir: root.join("self-test") }
    }

    fn path(&self, circumstances: &Circumstances) -> PathBuf {
        // A map of strings always serialises; an empty name would only cost a self-test.
        let text = serde_json::to_vec(circumstances).unwrap_or_default();
        self.dir.join(format!("{}.json", sha256_hex(&text)))
    }

    /// Whether a self-test passed under the same circumstances.
    #[must_use]
    pub fn contains(&self, circumstances: &Circumstances) -> bool {
        let remembered = std::fs::read(self.path(circumstances)).ok();
        let remembered = remembered.and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
        remembered.is_some_and(|remembered| remembered.circumstances == *circumstances)
    }

    /// Remembers that a self-test passed. A failure is a warning.
    pub fn remember(&self, circumstances: &Circumstances, report: &SelfTestReport) {
        let path = self.path(circumstances);
        if let Err(error) = self.write(&path, circumstances, report) {
            tracing::warn!(path = %path.display(), %error, "self-test result cannot be remembered; the next run repeats it");
        }
    }

    /// Written beside its place and renamed: other workers see all of it or nothing.
    fn write(
        &self,
        path: &Path,
        circumstances: &Circumstances,
        report: &SelfTestReport,
    ) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let remembered = Remembered { circumstances: circumstances.clone(), result: report.to_string() };
        let text = serde_json::to_vec_pretty(&remembered)?;
        let partial = path.with_extension(format!("partial-{}", std::process::id()));
        let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&partial);
        }
        written
    }
}
