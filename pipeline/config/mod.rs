//! Configuration in two layers: what was set, key by key with its origin ([`Layers`] of [`Settings`]), and the validated
//! settings that a run is built from ([`RunConfig`]).
//!
//! Precedence: defaults < file < environment (`RECAPTION_SECTION__KEY`) < flags. Keys are declared in [`mod@sections`] alone;
//! `docs/src/configuration-reference.md`, the JSON schema and the help texts of flags are generated from there. Layering,
//! origins, suggestions and checks are those of `recaption_config`, which `recaption-finetune` shares.

mod captioning;
mod row_keys;
mod run_config;
mod scoring;
pub mod sections;
#[cfg(test)]
mod tests;

pub use captioning::CaptionConfig;
pub use recaption_config::{ConfigError, Description};
pub use run_config::{
    DEFAULT_BATCH_SIZE, ExplicitSettings, GPU_BATCH_SIZE, InputConfig, ModelConfig, MonitoringConfig,
    OutputConfig, ResourceConfig, RunConfig, environment_store_settings,
};
pub use scoring::ScoreConfig;
pub use sections::Settings;

/// Values of `recaption`'s keys, layer by layer.
pub type Layers = recaption_config::Layers<Settings>;

/// The keys of `recaption`, described.
#[must_use]
pub fn description() -> &'static Description {
    <Settings as recaption_config::Settings>::description()
}

/// Help text of a flag that sets the key `name`.
#[must_use]
pub fn help(name: &str) -> String {
    description().help(name)
}

/// The reference of all keys, as `docs/src/configuration-reference.md` holds it.
#[must_use]
pub fn reference() -> String {
    description().reference("Configuration reference", "RECAPTION_", "recaption config reference")
}
