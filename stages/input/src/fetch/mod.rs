//! URLs of lists -> images.
//!
//! URL lists and the servers that they name are untrusted input. Only http and https are fetched; addresses of the local
//! network are refused, after the name is resolved and after every redirect; every response is bounded in size and time;
//! requests to one host are few at a time; and images whose server opts out of machine use are rejected.
//!
//! | file | what |
//! |---|---|
//! | `client` (with `address`, `resolve`, `response`, `robots`) | URL -> bytes |
//! | `rows` | rows of a list -> samples |

mod address;
mod client;
mod resolve;
mod response;
mod robots;
mod rows;
mod settings;

pub use client::{FetchPermit, Fetcher};
pub use response::{FetchError, Fetched};
pub(crate) use rows::{FetchResult, FetchRow, fetch_row};
pub use settings::FetchSettings;
