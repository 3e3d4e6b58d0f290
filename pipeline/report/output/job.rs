//! The request of a report.

use std::path::PathBuf;

use recaption_store::StoreSettings;

/// What is reported, and where to.
#[derive(Clone, Debug)]
pub(crate) struct ReportJob {
    /// The output: folder or bucket prefix.
    pub(crate) output: String,
    /// The file that is written.
    pub(crate) file: PathBuf,
    /// Captions in the sample.
    pub(crate) samples: usize,
    /// Seed of the sample.
    pub(crate) seed: u64,
    /// Whether images are shown.
    pub(crate) images: bool,
    /// Bytes of input shards that are read for images, at most.
    pub(crate) image_bytes: u64,
    /// Whether images of lists are fetched from their URLs.
    pub(crate) fetch: bool,
    /// Timeouts and retries.
    pub(crate) stores: StoreSettings,
}
