//! The types of Recaption's output: rows, rejects, records, and the names of shards and parts.
//!
//! Every type is validated when it is constructed. There is no I/O and no async here, so that a reader of an output can depend on
//! this crate without a runtime. What travels between the stages of a run is in `recaption_messages`.

#![forbid(unsafe_code)]

mod blend;
mod candidates;
mod caption;
mod commit;
mod digest;
mod name;
mod preprocess;
mod random;
mod reject;
mod row;
mod shard;
mod table;

pub use blend::{Blend, ShardBlend};
pub use candidates::{Candidate, Candidates, MatchProbability, Similarity};
pub use caption::OriginalCaption;
pub use commit::{
    COMMIT_FORMAT, Counts, Damage, FailureClass, FailureRecord, InputCounts, PartInfo, ShardCommit,
};
pub use digest::{hex, sha256_hex};
pub use name::{name_bytes, name_text, path_text};
pub use preprocess::{Interpolation, Preprocess, ResizeMode};
pub use random::SplitMix64;
pub use reject::{Reject, RejectReason};
pub use row::{CaptionRow, EmbeddedImage};
pub use shard::{
    ShardId, part_name, part_url, printable, redact_text, redact_url, shard_of_part, webdataset_part_name,
};
pub use table::{
    AddedColumns, CAPTION_SCHEMA_VERSION, CaptionTable, RejectTable, caption_schema, metadata_keys,
    reject_schema,
};

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
