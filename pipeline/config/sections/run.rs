//! The sections about the output, the run and the stores.

use recaption_config::section;
use recaption_store::StoreSettings;

use super::{ImagesName, OutputFormatName};

/// Memory for attention caches.
const DEFAULT_CACHE_BYTES: u64 = 4 << 30;
/// Share of failed samples beyond which a run stops.
const DEFAULT_MAX_FAILURE_RATIO: f64 = 0.5;
/// Lease of a lock in a bucket, seconds.
const DEFAULT_LOCK_SECONDS: u64 = 600;
/// Lease of the shards that a worker has claimed, seconds.
const DEFAULT_CLAIM_SECONDS: u64 = 20;

section! {
    /// `[output]`
    pub struct OutputSection {
        /// Output folder or bucket prefix.
        #[schemars(extend("x-required" = true, "x-flag" = "--output URL"))]
        pub url: String = String::new(),
        /// Whether rows carry the stored image.
        pub images: ImagesName = ImagesName::None,
        /// Format of the output: `parquet`, or `webdataset` to write tars of images and texts too; `recaption convert` makes others.
        pub format: OutputFormatName = OutputFormatName::Parquet,
    }
}

section! {
    /// `[blend]`
    pub struct BlendSection {
        /// Adds the column `text`: the synthetic caption with this probability, drawn by seed, shard and key, else the original one; DALL·E 3 used 0.95.
        #[schemars(range(min = 0.0, max = 1.0), extend("x-default" = "off"))]
        pub synthetic: Option<f64> = None,
    }
}

section! {
    /// `[run]`
    pub struct RunSection {
        /// Seed of sampling.
        #[schemars(range(min = 0))]
        pub seed: u64 = 0,
        /// Threads that decode images and run the model.
        #[schemars(range(min = 1, max = 4096), extend("x-default" = "all cores", "x-flag" = "--threads N"))]
        pub threads: Option<usize> = None,
        /// Images that one copy of the model captions together.
        #[schemars(range(min = 1, max = 4096), extend("x-unit" = "images", "x-default" = "32, on a GPU 256", "x-flag" = "--batch-size N"))]
        pub batch_size: Option<usize> = None,
        /// Memory for attention caches, all copies of the model together; batches shrink when it is short.
        #[schemars(range(min = 1_048_576), extend("x-unit" = "bytes"))]
        pub cache_bytes: u64 = DEFAULT_CACHE_BYTES,
        /// Share of failed samples, of at least 1,000 and in more than one shard, beyond which the run stops; 1 is off.
        #[schemars(range(min = 0.0, max = 1.0))]
        pub max_failure_ratio: f64 = DEFAULT_MAX_FAILURE_RATIO,
        /// Whether a GPU is compared with the CPU before a run begins.
        pub self_test: bool = true,
        /// Lock lease, with `--lock` on a bucket: seconds until an unrenewed lock expires.
        #[schemars(range(min = 1, max = 86_400), extend("x-unit" = "seconds"))]
        pub lock_seconds: u64 = DEFAULT_LOCK_SECONDS,
        /// Claim lease: seconds until the shards of a worker that stopped renewing its claim go to others; 0 turns claims off.
        #[schemars(range(min = 0, max = 86_400), extend("x-unit" = "seconds"))]
        pub claim_seconds: u64 = DEFAULT_CLAIM_SECONDS,
        /// Seconds that shards in flight have after SIGTERM or Ctrl-C, before they are abandoned; 0 waits for them.
        #[schemars(range(min = 0, max = 86_400), extend("x-unit" = "seconds"))]
        pub grace_seconds: u64 = 0,
        /// Address, `HOST:PORT`, at which the run serves metrics for Prometheus, at `/metrics`.
        #[schemars(extend("x-default" = "none", "x-flag" = "--metrics-addr HOST:PORT"))]
        pub metrics_addr: String = String::new(),
        /// File, `*.prom`, that takes the run's metrics when it ends, for node exporter's textfile collector.
        #[schemars(extend("x-default" = "none", "x-flag" = "--metrics-file PATH"))]
        pub metrics_file: String = String::new(),
    }
}

section! {
    /// `[store]`
    pub struct StoreSection {
        /// Retries of a request after a transient failure.
        #[schemars(range(min = 0, max = 100))]
        pub retries: u32 = StoreSettings::default().retry.retries,
        /// Timeout of a store's response, and of the next bytes of one.
        #[schemars(range(min = 0.1, max = 3600.0), extend("x-unit" = "seconds"))]
        pub timeout_seconds: f64 = StoreSettings::default().timeout.as_secs_f64(),
        /// Lowest read throughput, over `store.timeout_seconds`; slower reads are retried as if the connection had stalled.
        #[schemars(range(min = 0), extend("x-unit" = "bytes per second"))]
        pub min_bytes_per_second: u64 = StoreSettings::default().min_bytes_per_second,
    }
}
