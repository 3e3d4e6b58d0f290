//! `recaption run`: plan, process, report.
//!
//! ```text
//! readers (tokio) -> decoders (rayon) -> captioners (threads that own the models) -> shard writers (tokio)
//!      |                   |                                                          ^
//!      +--- rejects, kept rows ------------------------> collector -------------------+
//! ```
//! Every arrow is a bounded channel. Readers are held back by a window of open shards and a budget of bytes, so memory
//! does not grow with the size of a shard or of the dataset.
//!
//! | file | what |
//! |---|---|
//! | `job` | a whole run, from lock to report |
//! | `plan`, `cleanup` | what is to be done, and what no longer belongs in the output |
//! | `rounds`, `pipeline`, `context` | threads and channels of a pass over shards |
//! | `readers`, `decoders`, `captioners`, `collector`, `shard_writer`, `parts` | the stages, in the order of the data flow |
//! | `shard_queue`, `worker_claims` | which shard is next, given what other workers do |
//! | `record`, `failures`, `status`, `progress` | what is reported |

mod captioners;
mod cleanup;
mod collector;
mod context;
mod decoders;
mod devices;
mod events;
mod failures;
mod guard;
mod job;
mod model;
mod options;
mod output;
mod parts;
mod pipeline;
mod plan;
mod progress;
mod readers;
mod record;
mod rounds;
mod self_test;
mod shard_queue;
mod shard_writer;
mod status;
mod stop;
mod webdataset_part;
mod worker_claims;

pub use context::RunContext;
pub use devices::{DeviceReport, Devices};
pub(crate) use events::Events;
pub use job::{LockedOut, run, run_over};
pub use model::RunModel;
pub use options::RunOptions;
pub(crate) use pipeline::{StreamRequest, stream};
pub use plan::{Mismatch, Plan};
pub(crate) use plan::{refuse_others, unclaimed};
pub use progress::{Progress, Reporter};
pub use record::{ExitCode, RunReport};
pub use self_test::{SelfTest, self_test, self_test_with};
pub use status::{LastRun, Status, status};
pub use stop::{Stop, install_signal_handlers};
