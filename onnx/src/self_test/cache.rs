//! Passed self-tests, cached in a folder so that they are not repeated in every run.
//!
//! There is a file per [`TestEnvironment`], named by its hash; a file that cannot be read or holds another environment is ignored.
//! If the folder cannot be written, a warning is logged and the next run repeats the test.

use std::path::{Path, PathBuf};

use recaption_schemas::sha256_hex;
use serde::{Deserialize, Serialize};

use super::{environment::TestEnvironment, report::SelfTestReport};
use crate::runtime::cache_root;

/// Contents of a file.
#[derive(Serialize, Deserialize)]
struct CachedTest {
    #[serde(alias = "circumstances")]
    environment: TestEnvironment,
    /// The report, for readers of the file.
    result: String,
}

/// The cache of passed self-tests.
#[derive(Clone, Debug)]
pub struct SelfTestCache {
    dir: PathBuf,
}

impl Default for SelfTestCache {
    /// Returns the cache in `self-test` of `RECAPTION_CACHE`, else `XDG_CACHE_HOME/recaption`, else `~/.cache/recaption`.
    fn default() -> Self {
        Self::at(&cache_root())
    }
}

impl SelfTestCache {
    /// Returns the cache in the folder `self-test` of `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { dir: root.join("self-test") }
    }

    fn path(&self, environment: &TestEnvironment) -> PathBuf {
        // Serialising strings does not fail; an empty name would only repeat the test.
        let text = serde_json::to_vec(environment).unwrap_or_default();
        self.dir.join(format!("{}.json", sha256_hex(&text)))
    }

    /// Returns whether a self-test passed in the same environment.
    pub(super) fn contains(&self, environment: &TestEnvironment) -> bool {
        let cached = std::fs::read(self.path(environment)).ok();
        let cached = cached.and_then(|text| serde_json::from_slice::<CachedTest>(&text).ok());
        cached.is_some_and(|cached| cached.environment == *environment)
    }

    /// Stores a passed self-test. A failure is logged as a warning.
    pub(super) fn store(&self, environment: &TestEnvironment, report: &SelfTestReport) {
        let path = self.path(environment);
        if let Err(error) = self.write(&path, environment, report) {
            tracing::warn!(path = %path.display(), %error, "cannot cache the self-test; the next run will repeat it");
        }
    }

    /// Writes a file under another name and renames it, so that other workers see all of it or nothing.
    fn write(
        &self,
        path: &Path,
        environment: &TestEnvironment,
        report: &SelfTestReport,
    ) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let cached = CachedTest { environment: environment.clone(), result: report.to_string() };
        let text = serde_json::to_vec_pretty(&cached)?;
        let partial = path.with_extension(format!("partial-{}", std::process::id()));
        let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path));
        if written.is_err() {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&partial);
        }
        written
    }
}
