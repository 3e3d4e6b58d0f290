//! How commands that are configured by the last run find it, and go where it was started.

use std::path::Path;

use recaption_store::Stores;

use crate::{config::environment_store_settings, run::LastRun};

/// Goes where the last run was started, so that its paths mean the same, if that place is still there.
pub(super) fn enter(last: &LastRun) {
    if !last.directory.is_empty() && std::env::set_current_dir(Path::new(&last.directory)).is_err() {
        tracing::warn!(
            directory = last.directory,
            "the last run's directory is gone; its paths are taken from here"
        );
    }
}

/// Returns stores with the settings of the environment, for an output whose run is not known yet.
pub(super) fn environment_stores() -> anyhow::Result<Stores> {
    Ok(Stores::new(environment_store_settings()?))
}
