//! Paths below an output. Other versions of the program read them, so they do not change.

/// Folders of parts.
pub const TABLES: [&str; 3] = ["captions", "rejects", WEBDATASET];
/// Folder of the webdataset parts, with `output.format = "webdataset"`.
pub const WEBDATASET: &str = "webdataset";
/// Folder of everything that is not a part.
pub(crate) const INTERNAL: &str = "_recaption";
/// Folder of the commit records.
pub const COMMITS: &str = "_recaption/shards";
/// Folder of the failure records.
pub const FAILURES: &str = "_recaption/failures";
/// Folder of the deletions in flight.
pub const PENDING_DELETIONS: &str = "_recaption/removals";
/// Folder of the workers' heartbeats.
pub const WORKERS: &str = "_recaption/workers";
/// Folder of the workers' claims of shards.
pub const CLAIMS: &str = "_recaption/claims";
/// The configuration that the output's rows are made with.
pub const CONFIGURATION: &str = "_recaption/configuration.json";
/// The cache of all commit records.
pub(crate) const INVENTORY: &str = "_recaption/inventory.json.zst";
/// The file whose lock guards replacements on a file system.
pub(crate) const REPLACEMENT_LOCK: &str = "_recaption/records.lock";
/// The lock of a run that excludes others.
pub const RUN_LOCK: &str = "_recaption/lock.json";
/// The sums over all records, which `recaption finalize` writes.
pub const TOTALS: &str = "_recaption/totals.json";
/// The page that `recaption finalize` writes.
pub const REPORT: &str = "report.html";
/// Folder of the records of runs.
pub const RUNS: &str = "_recaption/runs";
