//! `CaptionRow | Reject -> Parquet part -> ShardCommit`: the output of a run, and the second pass over a finished one.
//!
//! | module | hop |
//! |---|---|
//! | `part_writer` | rows -> Parquet part |
//! | [`commits`] | parts -> `ShardCommit` |
//! | `part_reader` | Parquet part -> rows |
//! | `previous_rows` | parts of an earlier run -> the rows that a retry keeps |
//! | [`second_pass`] | parts of a finished output -> parts of another |
//! | [`layout`] | paths below an output |
//! | `location` | the output's location, opened for writing |
//!
//! Nothing here reads images, knows a model or the program's configuration.

#![forbid(unsafe_code)]

pub mod commits;
mod digest;
pub mod layout;
mod location;
mod part_reader;
mod part_writer;
mod previous_rows;
pub mod second_pass;

pub use digest::{ContentDigest, digest_of, object_digest};
pub use location::{locate_output, open_output, overlap};
pub use part_reader::{PartReader, ReadPartError};
pub use part_writer::{PartTarget, PartWriter, ROW_GROUP_BYTES, WriteError, WrittenPart};
pub use previous_rows::read_previous_rows;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
