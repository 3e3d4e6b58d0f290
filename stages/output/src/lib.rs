//! `CaptionRow | Reject -> Parquet part -> ShardCommit`: the output of a run, and the second pass over a finished one.
//!
//! | module | hop |
//! |---|---|
//! | `part_writer`, `object_writer` | rows -> Parquet part |
//! | [`webdataset`] | rows and images -> webdataset part |
//! | `caption_rows` | record batch -> rows of `captions/` |
//! | [`commits`] | parts -> `ShardCommit` |
//! | `part_reader` | Parquet part -> rows |
//! | `previous_rows` | parts of an earlier run -> the rows that a retry keeps |
//! | [`second_pass`] | parts of a finished output -> parts of another |
//! | [`layout`] | paths below an output |
//! | `location` | the output's location, opened for writing |
//!
//! Nothing here reads images, knows a model or the program's configuration.

#![forbid(unsafe_code)]

mod caption_rows;
pub mod commits;
mod digest;
pub mod layout;
mod location;
mod object_writer;
mod part_reader;
mod part_writer;
mod previous_rows;
pub mod second_pass;
pub mod webdataset;
mod write_error;

pub use caption_rows::CaptionRows;
pub use digest::{ContentDigest, digest_of, object_digest};
pub use location::{locate_output, open_output, overlap};
pub use object_writer::{PartTarget, WrittenPart};
pub use part_reader::{Columns, PartReader, ReadPartError};
pub use part_writer::{PartWriter, ROW_GROUP_BYTES};
pub use previous_rows::read_previous_rows;
pub use write_error::WriteError;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
