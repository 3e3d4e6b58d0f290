//! Execution providers: requested by name, checked on this machine, registered with sessions.

mod cuda_check;
mod devices;
mod problem;
pub(super) mod registration;
mod requested;
mod resolve;
pub(super) mod tensorrt;

pub(crate) use cuda_check::driver_version;
pub use devices::Devices;
pub use requested::Provider;
pub(crate) use tensorrt::cache_root;
