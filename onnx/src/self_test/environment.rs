//! Everything that a passed self-test depends on: if any of it changes, the test is repeated.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    model::ModelFolder,
    runtime::{RuntimeError, SessionOptions, driver_version, load_library, loaded_version},
};

/// Where NVIDIA's driver describes its GPUs, a folder each.
const GPUS: &str = "/proc/driver/nvidia/gpus";
/// Renumbers and hides GPUs for CUDA.
const VISIBLE_GPUS: &str = "CUDA_VISIBLE_DEVICES";

/// What was tested, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TestEnvironment {
    /// Digests of the captioner and, if there is one, the scorer.
    pub(super) models: Vec<String>,
    /// Version of this program.
    pub(super) version: String,
    /// Execution provider.
    pub(super) provider: String,
    /// Whether decoder steps are captured as CUDA graphs.
    pub(super) cuda_graphs: bool,
    /// Version of ONNX Runtime.
    pub(super) runtime: Option<String>,
    /// Build information of ONNX Runtime, commit included.
    pub(super) runtime_build: String,
    /// Version of the GPU's driver.
    pub(super) driver: Option<String>,
    /// Model of the GPU.
    pub(super) gpu: Option<String>,
}

impl TestEnvironment {
    /// Describes this machine.
    ///
    /// # Errors
    /// When ONNX Runtime cannot be loaded.
    pub(super) fn of(
        captioner: &ModelFolder,
        scorer: Option<&ModelFolder>,
        options: &SessionOptions,
    ) -> Result<Self, RuntimeError> {
        load_library()?;
        let execution = options.execution;
        let models = std::iter::once(captioner).chain(scorer);
        let name = execution.as_str();
        Ok(Self {
            models: models.map(|model| model.digest.clone()).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            provider: if execution.is_gpu() { name.to_owned() } else { format!("{name} as a device") },
            cuda_graphs: options.cuda_graphs,
            runtime: loaded_version(),
            runtime_build: ort::info().to_owned(),
            driver: driver_version().filter(|_| execution.is_gpu()),
            gpu: execution.device().and_then(|device| {
                let visible = std::env::var(VISIBLE_GPUS).ok();
                gpu_model(Path::new(GPUS), device, visible.as_deref())
            }),
        })
    }

    /// Returns whether everything is known; what is unknown may change undetected.
    pub(super) fn is_known(&self, options: &SessionOptions) -> bool {
        !options.execution.is_gpu() || (self.driver.is_some() && self.gpu.is_some())
    }

    /// Describes provider, GPU and versions: `cuda (GPU 0, NVIDIA H100 80GB HBM3, driver 580.95.05, ONNX Runtime 1.31.1)`.
    pub(super) fn place(&self, options: &SessionOptions) -> String {
        let mut parts = Vec::new();
        if let Some(device) = options.execution.device() {
            parts.push(format!("GPU {device}"));
            parts.push(self.gpu.clone().unwrap_or_else(|| "of an unknown model".into()));
            let driver = self.driver.as_deref().unwrap_or("of an unknown version");
            parts.push(format!("driver {driver}"));
        }
        parts.push(format!("ONNX Runtime {}", self.runtime.as_deref().unwrap_or("of an unknown version")));
        format!("{} ({})", self.provider, parts.join(", "))
    }
}

/// Returns the model that all GPUs of the machine have. If there are several models, CUDA's numbers may differ from the driver's:
/// then all models are returned, with the number and what renumbers it.
fn gpu_model(gpus: &Path, device: u32, visible: Option<&str>) -> Option<String> {
    let describe = |folder: std::fs::DirEntry| {
        let text = std::fs::read_to_string(folder.path().join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned();
        (!model.is_empty()).then_some(model)
    };
    let mut models: Vec<String> = std::fs::read_dir(gpus).ok()?.flatten().filter_map(describe).collect();
    models.sort();
    models.dedup();
    match &models[..] {
        [] => None,
        [model] => Some(model.clone()),
        several => {
            Some(format!("number {device} of {} (visible: {})", several.join(", "), visible.unwrap_or("all")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_of_different_models_include_their_number() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let add = |slot: &str, model: &str| {
            let folder = dir.path().join(slot);
            std::fs::create_dir(&folder).expect("folder");
            std::fs::write(folder.join("information"), format!("Model: \t\t {model}\nIRQ: 5\n"))
                .expect("written");
        };
        assert_eq!(gpu_model(dir.path(), 0, None), None);
        add("0000:01:00.0", "NVIDIA H100 80GB HBM3");
        add("0000:02:00.0", "NVIDIA H100 80GB HBM3");
        assert_eq!(gpu_model(dir.path(), 1, Some("1")).as_deref(), Some("NVIDIA H100 80GB HBM3"));
        add("0000:03:00.0", "NVIDIA A10G");
        let first = gpu_model(dir.path(), 0, Some("0"));
        assert!(
            first.is_some()
                && first != gpu_model(dir.path(), 0, Some("2"))
                && first != gpu_model(dir.path(), 1, Some("0"))
        );
        assert_eq!(gpu_model(&dir.path().join("none"), 0, None), None);
    }
}
