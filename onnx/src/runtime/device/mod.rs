//! Tensors in a session's device memory: allocating them, and copying them without the host.
//!
//! Generic over the memory, so that the code path of a GPU can run on the CPU. Everything is copied by graphs (`graphs`)
//! that run where the tensors are. Sessions have streams of their own; every run ends with its stream drained, so one session
//! may read what another one wrote.

mod copies;
mod graphs;
mod shapes;
#[cfg(test)]
mod tests;

pub(super) use copies::DeviceCopyGraphs;
pub(super) use shapes::{CacheShape, CrossShape};
