//! What travels between Recaption's stages and what lands on disk.
//!
//! One type per arrow of the data's way:
//! `ShardRef -> Sample -> Image -> Encoded -> Candidates -> Scored -> CaptionRow | Reject -> Parquet part -> ShardCommit`.
//! Each type is made valid once, when it is built. No I/O and no async here: this crate is what a reader of the output
//! may depend on without pulling in a runtime.

#![forbid(unsafe_code)]

mod candidates;
mod caption;
mod commit;
mod digest;
mod name;
mod preprocess;
mod reject;
mod row;
mod shard;
mod table;

pub use candidates::{Candidate, Candidates, Similarity};
pub use caption::OriginalCaption;
pub use commit::{
    COMMIT_FORMAT, Counts, Damage, FailureClass, FailureRecord, InputCounts, PartInfo, ShardCommit,
};
pub use digest::{hex, sha256_hex};
pub use name::{name_bytes, name_text, path_text};
pub use preprocess::{Interpolation, Preprocess, ResizeMode};
pub use reject::{Reject, RejectReason};
pub use row::{CaptionRow, EmbeddedImage};
pub use shard::{ShardId, part_name, part_url, printable, redact_text, redact_url, shard_of_part};
pub use table::{
    CAPTION_SCHEMA_VERSION, CaptionTable, RejectTable, caption_schema, metadata_keys, reject_schema,
};

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
