//! `ShardRef -> Sample`: what the inputs are, and the reader.
//!
//! | module | hop |
//! |---|---|
//! | [`shards`] | patterns -> `ShardRef` |
//! | [`read`] | `ShardRef` -> `Sample` |
//! | [`tar`], [`webdataset`] | members of archives -> samples |
//! | [`fetch`] | URLs of lists -> images |
//! | [`label`], [`told`], [`json`] | keys, captions and metadata of any input |

#![forbid(unsafe_code)]

pub mod fetch;
pub mod json;
pub mod label;
pub mod read;
pub mod shards;
pub mod tar;
pub mod told;
pub mod webdataset;
