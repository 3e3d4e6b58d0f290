//! Configuration in two layers: what was typed ([`Layers`]), and the validated settings built from it ([`RunConfig`]).
//!
//! Precedence: defaults < file < environment (`RECAPTION_SECTION__KEY`) < flags. A key that nobody knows is an error
//! that suggests the nearest known one.

mod captioning;
mod keys;
mod layers;
mod settings;
#[cfg(test)]
mod tests;

pub use captioning::Captioning;
pub use keys::{KEYS, Key, Kind, nearest};
pub use layers::{ConfigError, Layers};
pub use settings::{
    DEFAULT_BATCH_SIZE, GPU_BATCH_SIZE, Images, RunConfig, provider_and_devices, store_settings,
};
