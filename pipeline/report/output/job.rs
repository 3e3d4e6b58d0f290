//! The request of a report.

use std::path::PathBuf;

use recaption_store::StoreSettings;

/// Where a page goes.
#[derive(Clone, Debug)]
pub(crate) enum ReportTarget {
    /// A file of this machine.
    File(PathBuf),
    /// The output itself, as `report.html`.
    Output,
}

/// What is reported, and where to.
#[derive(Clone, Debug)]
pub(crate) struct ReportJob {
    /// The output: folder or bucket prefix.
    pub(crate) output: String,
    /// Where the page goes.
    pub(crate) target: ReportTarget,
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
