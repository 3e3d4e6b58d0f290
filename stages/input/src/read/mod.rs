//! Shards -> samples: streams one shard and sends its samples on, without ever holding the shard in memory.
//!
//! Async, on tokio: parsing a chunk blocks for microseconds, and Parquet is decoded on blocking threads. Bounded by the sink's
//! capacity and by the byte budget, on which every sample draws until its bytes are dropped. What cannot become a sample is a
//! reject with a reason; the damaged end of a shard is one reject. Nothing is dropped.
//!
//! | file | what |
//! |---|---|
//! | `shard` | the entry point: format detection and dispatch |
//! | `context`, `settings`, `counts` | what all readers share |
//! | `open`, `sniff`, `decompress` | a shard's bytes in order |
//! | `archive` (with [`crate::tar`], [`crate::webdataset`]) | members of a tar -> samples |
//! | `folder` (with `metadata`, `metadata_file`, `sidecars`) | image files -> samples |
//! | `raw_samples` | assembled samples -> samples or rejects |
//! | `table` | rows of Parquet -> samples |
//! | `list`, `fetch_queue` (with [`crate::lists`], [`crate::fetch`]) | URLs -> samples |
//! | `count` | the number of a shard's samples, without reading it |
//! | `sample` (with `sample_archive`, `places`) | some samples of a shard |
//! | `split` | a long list -> parts, before anything is read |

mod archive;
mod context;
mod count;
mod counts;
mod decompress;
mod fetch_queue;
mod folder;
mod list;
mod metadata;
mod metadata_file;
mod open;
mod places;
mod raw_samples;
mod sample;
mod sample_archive;
mod settings;
mod shard;
mod sidecars;
mod sniff;
mod split;
mod table;

pub use context::ReadRequest;
pub use count::{CountMethod, SampleCount, count_samples};
pub use counts::UsageLog;
pub use metadata::MetadataCache;
pub use places::Places;
pub use sample::{ShardSample, sample_shard};
pub use settings::{ROWS_PER_SHARD, ReadSettings};
pub use shard::read_shard;
pub use split::{LISTS, Split, Splitter, StalePart};

pub use crate::{
    columns::Columns,
    format::{InputFormat, ListKind},
};
