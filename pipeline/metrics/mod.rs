//! Metrics of a run for Prometheus: served while it runs, and written as a file when it ends.
//!
//! | file | what |
//! |---|---|
//! | `families` | every metric, declared once: name, type, labels, help |
//! | `monitor` | [`Monitor`]: what metrics are read from |
//! | `collect`, `exposition` | the monitor's numbers as Prometheus text |
//! | `server` | `--metrics-addr`: `/metrics` and `/healthz` |
//! | `textfile` | `--metrics-file`: for node exporter's textfile collector |
//! | `process`, `gpu_memory` | what the operating system and the driver know |
//!
//! Metrics only look at what the stages count anyway. A run works the same, and as fast, whether anybody looks or not.

mod collect;
mod exposition;
mod families;
mod gpu_memory;
mod monitor;
mod process;
mod server;
mod textfile;

pub use families::reference;
pub(crate) use monitor::RunFacts;
pub use monitor::{Monitor, PlannedShards};
pub(crate) use server::serve;
pub(crate) use textfile::{check_textfile, write_textfile};
