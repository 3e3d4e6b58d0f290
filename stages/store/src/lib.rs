//! Object stores by URL: file systems, buckets, web servers and datasets on the Hugging Face hub.
//!
//! Every stage reads and writes through a [`Location`], which [`Stores::locate`] makes from a plain path or a URL: `file://`,
//! `s3://`, `gs://`, `az://` (and its relatives), `http(s)://` and `hf://datasets/`; the last two are read only. Every store is
//! a [`RetryingStore`]. Credentials come from each cloud's own environment variables, as object_store documents them, from
//! AWS's shared files, and from the hub's variables; no error and no `Debug` output holds a secret.
//!
//! | module | content |
//! |---|---|
//! | `stores`, `location`, `environment` | URL -> open store and path |
//! | `clients`, `aws_profile`, `listing` | clients of the clouds and of web servers |
//! | `local` | the file system |
//! | `hub` | datasets on the Hugging Face hub, and its models in a local cache |
//! | `retry`, `retrying`, `counters` | the retry policy, the store that applies it, and counts of its requests |
//! | `error`, `error_kind`, `message` | what an error means, and its text for people |
//! | `lease`, `lock` | one run at a time over an output |
//! | `probe` | whether a location can be written, and on conditions |
//! | `conditional`, `json` | conditional puts where a store lacks them, small documents |
//!
//! Nothing here knows the program's configuration, or what an output holds.

#![forbid(unsafe_code)]

mod aws_profile;
mod clients;
mod conditional;
mod counters;
mod environment;
mod error;
mod error_kind;
mod hub;
mod json;
mod lease;
mod listing;
mod local;
mod location;
mod lock;
mod message;
mod probe;
mod retry;
mod retrying;
mod settings;
mod stores;

pub use clients::install_crypto;
pub use conditional::lacks_conditional_put;
pub use counters::{StoreCounters, StoreOperation};
pub use environment::EnvLookup;
pub use error::StoreError;
pub use error_kind::ErrorKind;
pub use hub::{
    Dataset, FileChoice, Hub, HubModel, HubModels, HubSettings, PullError, PullProgress, PulledFile,
    PulledModel,
};
pub use json::{read_json, to_json, write_json};
pub use local::open_lock_file;
pub use location::{Folder, Location, NamesBetween, StoreKind};
pub use lock::{LockAttempt, LockError, RunLock, lock, lock_holder};
pub use message::{is_client_error, user_message};
pub use probe::probe_writes;
pub use retry::{RetryBudget, RetryPolicy, parse_retry_after};
pub use retrying::{RetryingStore, is_unversioned};
pub use settings::StoreSettings;
pub use stores::{Stores, Wrap};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExample;
