//! The sections about what is read.

use recaption_config::{TextList, section};
use recaption_image::{DEFAULT_BUDGET_BYTES, DEFAULT_EXIF_ORIENTATION, DEFAULT_MAX_PIXELS, DEFAULT_MIN_SIDE};
use recaption_input::{fetch::FetchSettings, read::ROWS_PER_SHARD, tar::DEFAULT_MAX_MEMBER_BYTES};

use super::{FormatName, PickName};

/// A column that is found by its usual names.
pub const AUTO_COLUMN: &str = "auto";
/// Shards read concurrently: one hides the latency of the other.
const DEFAULT_CONCURRENT_SHARDS: usize = 2;
/// Image bytes between reading and decoding: some hundred photos ahead of the decoders.
const DEFAULT_BUFFER_BYTES: usize = 256 << 20;

section! {
    /// `[input]`
    pub struct InputSection {
        /// Shards: URLs, paths, `{00000..00099}` ranges, globs, folders, or `@FILE` with one of these per line.
        #[schemars(extend("x-required" = true, "x-flag" = "--input URL"))]
        pub shards: TextList = TextList::default(),
        /// Format of the shards; `auto` detects it from the file name, then from magic bytes, and logs what it found.
        pub format: FormatName = FormatName::Auto,
        /// Column of the image bytes in Parquet; `auto` is `image`, `jpg` and similar names.
        pub image_column: String = AUTO_COLUMN.to_owned(),
        /// Column of the original caption; `auto` is `caption`, `text`, `txt`, `alt_text`, `captions`, in any case.
        pub caption_column: String = AUTO_COLUMN.to_owned(),
        /// Which of several original captions is taken; `random` depends on `run.seed` and the key. All stay in `meta`.
        pub caption_pick: PickName = PickName::First,
        /// Column of the image's URL; `auto` is `url`, `image_url`, in any case.
        pub url_column: String = AUTO_COLUMN.to_owned(),
        /// Column that holds keys; `auto` is `key`, `__key__`; without one, the image's path or else the row number.
        pub key_column: String = AUTO_COLUMN.to_owned(),
        /// Which of several images of one webdataset sample is captioned: suffixes, best first, before the usual order.
        pub image_suffixes: TextList = TextList::default(),
        /// Rows of a URL list that make one shard; 0 does not split lists.
        #[schemars(range(min = 0), extend("x-unit" = "rows"))]
        pub rows_per_shard: u64 = ROWS_PER_SHARD,
        /// Largest image, width x height; larger ones are rejected before they are decoded.
        #[schemars(range(min = 1), extend("x-unit" = "pixels"))]
        pub max_pixels: u64 = DEFAULT_MAX_PIXELS,
        /// Smallest shorter side of an image.
        #[schemars(range(min = 0, max = 1_048_576), extend("x-unit" = "pixels"))]
        pub min_side: u32 = DEFAULT_MIN_SIDE,
        /// Whether the EXIF orientation is applied before captioning.
        pub exif_orientation: bool = DEFAULT_EXIF_ORIENTATION,
        /// Largest archive member that is read.
        #[schemars(range(min = 1), extend("x-unit" = "bytes"))]
        pub max_member_bytes: u64 = DEFAULT_MAX_MEMBER_BYTES,
        /// Shards read concurrently.
        #[schemars(range(min = 1, max = 1024))]
        pub concurrent_shards: usize = DEFAULT_CONCURRENT_SHARDS,
        /// Encoded images held between reading and decoding.
        #[schemars(range(min = 1_048_576), extend("x-unit" = "bytes"))]
        pub buffer_bytes: usize = DEFAULT_BUFFER_BYTES,
        /// Memory for images being decoded, all threads together; others wait, and one that needs more alone is rejected.
        #[schemars(range(min = 1_048_576), extend("x-unit" = "bytes"))]
        pub decode_bytes: u64 = DEFAULT_BUDGET_BYTES,
    }
}

section! {
    /// `[fetch]`
    pub struct FetchSection {
        /// Timeout of one attempt at an image.
        #[schemars(range(min = 0.1, max = 3600.0), extend("x-unit" = "seconds"))]
        pub timeout_seconds: f64 = FetchSettings::default().timeout.as_secs_f64(),
        /// Retries after a transient failure.
        #[schemars(range(min = 0, max = 100))]
        pub retries: u32 = FetchSettings::default().retries,
        /// Concurrent fetches, of all lists together.
        #[schemars(range(min = 1, max = 4096))]
        pub concurrency: usize = FetchSettings::default().concurrency,
        /// Concurrent requests to one host, of all lists together.
        #[schemars(range(min = 1, max = 4096))]
        pub per_host: usize = FetchSettings::default().per_host,
        /// Largest image that is fetched; `fetch.concurrency` times as much may be in memory.
        #[schemars(range(min = 1), extend("x-unit" = "bytes"))]
        pub max_bytes: u64 = FetchSettings::default().max_bytes,
        /// Value of the `User-Agent` header.
        #[schemars(extend("x-default" = "recaption/VERSION"))]
        pub user_agent: String = FetchSettings::default().user_agent,
        /// Whether private, loopback and link-local addresses may be contacted, also after redirects.
        pub allow_private: bool = FetchSettings::default().allow_private,
        /// Directives of `X-Robots-Tag` on which an image is skipped; an empty list ignores the header.
        pub opt_out: TextList = TextList(FetchSettings::default().opt_out),
    }
}
