//! What a preview is.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use super::{
    record::PreviewRecord,
    samples::{PreviewCaption, PreviewReject},
};
use crate::run::ExitCode;

/// A preview.
#[derive(Clone, Debug, Serialize)]
pub struct Preview {
    /// What was measured.
    #[serde(flatten)]
    pub record: PreviewRecord,
    /// Captioned samples, in the order of the input.
    pub captions: Vec<PreviewCaption>,
    /// Rejected samples, in the order of the input.
    pub rejects: Vec<PreviewReject>,
    /// Shards that are damaged, with the damage, by URL, redacted.
    pub shards_damaged: BTreeMap<String, String>,
    /// Path of the page.
    pub page: PathBuf,
}

impl Preview {
    /// Returns [`ExitCode::Incomplete`] if shards could not be read whole, else [`ExitCode::Done`].
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        if self.record.shards_failed.is_empty() && self.shards_damaged.is_empty() {
            ExitCode::Done
        } else {
            ExitCode::Incomplete
        }
    }
}
