//! Names of a BLIP checkpoint's files.

/// File with the configuration.
pub(super) const CONFIG: &str = "config.json";
/// File with the image processor's settings.
pub(super) const PREPROCESSOR: &str = "preprocessor_config.json";
/// File with the settings of all processors, as transformers 5 writes it.
pub(super) const PROCESSOR: &str = "processor_config.json";
/// Files with the weights, first to last.
pub(super) const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// Extension of the authors' files, without the dot.
pub(super) const AUTHORS_EXTENSION: &str = "pth";
