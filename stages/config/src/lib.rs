//! The one configuration system of both programs: typed sections, layered values with their origin, generated documents.
//!
//! A program declares its keys once, as serde sections ([`section!`]): each field carries its documentation, unit, range and
//! default. From that declaration come the checks and the suggestions ([`Layers`]), the reference table
//! ([`Description::reference`]), the JSON schema ([`Description::schema`]), the help texts of flags that set keys
//! ([`Description::help`]) and the listing of effective values ([`Layers::show`]).
//!
//! Precedence: defaults < file < environment (`PREFIX_SECTION__KEY`) < flags. A value is checked when it is added, so that
//! an error names the file, variable or flag it came from.
//!
//! A crate of its own because two programs share it and neither may depend on the other: `recaption` must build without the
//! training framework. It stands below `stages/`, beside them, and knows none of them: no key of a program is named here.
//!
//! # Why these libraries
//!
//! - `figment2` layers values and remembers the layer of each (`find_metadata`). Its sources were read. Of
//!   `config` and `confique` only manifests and descriptions were: neither names ranges or a list of unknown keys.
//! - `schemars` turns the sections into a JSON schema with documentation, defaults and ranges, which is also what our own
//!   checks, reference table and help texts read. A general validator for that schema would be a further dependency; the eight
//!   shapes of value that a key can have are checked in [`Kind`].
//! - Own, because no library has it: the wording of errors, the nearest known key, and secrets of URLs left out of both.

#![forbid(unsafe_code)]

// The macro names this crate by its name, here too.
extern crate self as recaption_config;

mod description;
mod error;
mod kind;
mod layers;
mod reference;
mod section;
#[cfg(test)]
mod tests;
mod text_list;

pub use description::{Description, Key, Settings};
pub use error::ConfigError;
pub use kind::Kind;
pub use layers::Layers;
pub use text_list::TextList;

/// Derives that [`section!`] uses, so that its expansion needs no further dependency of the caller.
#[doc(hidden)]
pub mod derive {
    pub use schemars;
    pub use serde;
}

/// The example of the README, which the documentation tests run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
