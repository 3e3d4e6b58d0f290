//! The stages between object storage and Parquet, one file per hop, in the data's order:
//!
//! | file | hop |
//! |---|---|
//! | `shards` | patterns -> `ShardRef` |
//! | `read` (with `tar`, `webdataset`, `fetch`, and `former` in a retry) | `ShardRef` -> `Sample` |
//! | `prepare` (with `decode`) | `Sample` -> `Image` |
//! | `caption` | `Image` -> `Encoded` -> `Candidates` |
//! | `score` | `Candidates` -> `Scored` |
//! | `filter` (with `rules`) | `Scored` -> `CaptionRow` or `Reject` |
//! | `write` | rows -> Parquet part |
//! | `commits` | parts -> `ShardCommit` |
//! | `select` | a finished output's parts -> parts of another |
//!
//! Stages do not know each other's threads: the pipeline wires them over bounded channels. Files are touched through
//! `object_store` alone.

#![forbid(unsafe_code)]

pub use recaption_schemas as schemas;

pub mod caption;
pub mod commits;
pub mod decode;
pub mod evaluate;
pub mod fetch;
pub mod filter;
pub mod former;
pub mod json;
pub mod label;
pub mod prepare;
pub mod read;
pub mod rules;
pub mod score;
pub mod select;
pub mod shards;
pub mod store;
pub mod tar;
pub mod told;
pub mod webdataset;
pub mod write;
