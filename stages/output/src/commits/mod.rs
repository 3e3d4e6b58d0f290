//! Commit records: `OUT/_recaption/shards/<shard>.<fingerprint>.json`, written last.
//!
//! A record's name has the fingerprints of its input and of the configuration; it names its parts with size and digest, and
//! no other attempt's parts have their names. So a record is put on the condition that there is none, or exactly the one that
//! it replaces, and the worker that comes second deletes its own parts. Failures have records of their own, by which a later
//! run tells permanent failures from transient ones.
//!
//! | module | content |
//! |---|---|
//! | `record` | names and content of records and parts |
//! | `log` | reading, listing and deleting records |
//! | `between` | records and claims of some shards |
//! | `scan`, `read_records`, `inventory` | all records and parts of an output, and the cache of records |
//! | `committer`, `commit`, `compare_and_swap` | the commit of one shard |
//! | `deletion` | deleting shards |
//! | `workers` | which worker processes which shard |

mod between;
mod commit;
mod committer;
mod compare_and_swap;
mod deletion;
mod inventory;
mod log;
mod read_records;
mod record;
mod scan;
mod workers;

pub use between::Between;
pub use commit::{CommitRequest, CommitResult};
pub use committer::{CommitError, CommitStart, Committer, OutputConfiguration};
pub use log::CommitLog;
pub use record::{
    ExistingPart, ExistingRecord, RecordContent, RecordName, RecordSummary, Records,
    configuration_fingerprint,
};
pub use scan::{OutputScan, ShardState};
pub use workers::{ClaimAttempt, WorkerCount, Workers};
