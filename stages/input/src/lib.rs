//! Inputs to samples: `ShardRef -> Sample`.
//!
//! The first hop of a run. [`shards::list_shards`] expands patterns to [`shards::ShardRef`]s, and [`read::read_shard`] streams
//! one shard as [`recaption_messages::ReadItem`]s. What cannot become a sample becomes a reject with a reason here, so that
//! every sample is counted; images are neither decoded nor filtered.
//!
//! | module | what |
//! |---|---|
//! | [`shards`] | patterns -> shards |
//! | [`read`] | shards -> samples |
//! | [`tar`], [`webdataset`] | bytes -> members -> samples |
//! | [`lists`], [`fetch`] | lists of URLs -> rows -> images |
//! | [`format`](mod@format) | what an input is, by its name |
//! | [`columns`], [`captions`], `keys`, `json` | columns, captions, keys and metadata of any input |

#![forbid(unsafe_code)]

pub mod captions;
pub mod columns;
pub mod fetch;
pub mod format;
mod json;
mod keys;
pub mod lists;
pub mod read;
mod setting_names;
pub mod shards;
pub mod tar;
pub mod webdataset;

pub use setting_names::SettingNames;

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
