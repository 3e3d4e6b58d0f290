//! `CaptionRow | Reject -> Parquet part -> ShardCommit`: the output, and the second pass over a finished one.
//!
//! | module | hop |
//! |---|---|
//! | [`write`](mod@write) | rows -> Parquet part |
//! | [`commits`] | parts -> `ShardCommit` |
//! | [`select`] | parts of a finished output -> parts of another |
//! | `previous_rows` | parts of an earlier run -> what a retry keeps |

#![forbid(unsafe_code)]

pub mod commits;
mod previous_rows;
pub mod select;
pub mod write;

pub use previous_rows::read_previous_rows;

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
