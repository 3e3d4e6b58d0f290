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
//! | `rounds`, `retry_rounds`, `pipeline`, `context` | threads and channels of a pass over shards |
//! | `readers`, `decoders`, `captioners`, `collector`, `shard_writer`, `parts` | the stages, in the order of the data flow |
//! | `source` | which shard is next, given what other workers do |
//! | `selection`, `rank`, `array_task`, `read_limit`, `sampling` | parts of the input: some shards, some samples of each |
//! | `record`, `failures`, `progress` | what is reported |
//! | `last_run`, `comparison`, `status` | the state of an output, for commands that run nothing |
//! | `stop`, `panic_guard` | how a run ends early |

mod array_task;
mod captioners;
mod cleanup;
mod collector;
mod comparison;
mod context;
mod decoders;
mod devices;
mod events;
pub(crate) mod failures;
mod guard;
mod job;
mod last_run;
mod model;
mod options;
mod output;
mod panic_guard;
mod parts;
mod pipeline;
mod plan;
mod progress;
mod rank;
mod read_limit;
mod readers;
mod record;
mod retry_rounds;
mod rounds;
mod sampling;
mod selection;
mod self_test;
mod shard_writer;
mod source;
mod status;
mod stop;
mod task;
mod webdataset_part;

pub use array_task::ArrayTask;
pub(crate) use captioners::copies_and_threads;
pub(crate) use cleanup::{clear_leftovers, finish_deletions_of};
pub(crate) use collector::Collector;
pub(crate) use comparison::{Comparison, OpenShard, OpenState};
pub use context::RunContext;
pub(crate) use context::RunState;
pub use devices::{DeviceReport, Devices};
pub(crate) use events::Events;
pub(crate) use guard::FailureGuard;
pub(crate) use job::run_monitored;
pub use job::{LockedOut, run, run_over};
pub(crate) use job::{compare, join_workers, plan as plan_run, refuse_output_among_inputs, warn_circular};
pub use last_run::LastRun;
pub(crate) use last_run::is_made_by_filter;
pub use model::RunModel;
pub use options::RunOptions;
pub(crate) use output::Output;
pub(crate) use pipeline::{MIN_CAPTION_QUEUE, StreamRequest, stream};
pub use plan::{Mismatch, Plan};
pub(crate) use plan::{differences, refuse_others, unclaimed};
pub use progress::{
    DecodeCounters, Outcomes, Progress, ProgressHandle, QueueGauge, Reading, Reporter, Stage, StageReading,
    StageReport, WriteMeter,
};
pub use record::{ExitCode, FailedShard, RunReport};
pub use retry_rounds::retry_rounds;
pub(crate) use sampling::Sampling;
pub use self_test::{SelfTest, self_test, self_test_with};
pub(crate) use shard_writer::{ShardFailure, ShardOutcome, ShardResult};
pub use source::{Next, ShardSource, Tasks, WorkerClaims};
pub use status::{Status, status};
pub(crate) use status::{list_inputs, read_failures};
pub use stop::{Stop, install_signal_handlers};
pub use task::{DoneShard, InputNames, Keep, Task};
