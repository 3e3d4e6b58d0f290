//! Lists of addresses -> samples: the lists are parsed, the images fetched from whoever serves them.
//!
//! Strangers wrote the list, and strangers answer. So: only http and https, no address within the own network (looked at after
//! the name is resolved and after every redirect), every answer bounded in size and time, a few requests per host, and
//! images whose server opts out of machine use are left alone.
//!
//! | file | what |
//! |---|---|
//! | `lists` (with `delimited`) | CSV, TSV, JSON lines, plain text -> rows |
//! | `client` (with `address`, `resolve`, `robots`) | address -> bytes |
//! | `rows` | rows -> samples, many at a time |

mod address;
mod client;
pub(crate) mod delimited;
mod lists;
mod resolve;
mod robots;
mod rows;

pub use address::is_public;
pub use client::{FetchError, FetchSettings, Fetched, Fetcher, Place};
pub(crate) use lists::told_column;
pub use lists::{ListParser, ListRow};
pub use rows::{FetchResult, FetchRow, fetch_row};
