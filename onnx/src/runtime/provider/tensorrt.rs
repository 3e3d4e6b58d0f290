//! Options of TensorRT, which compiles image encoders; nodes that it rejects run on CUDA.
//!
//! Engines and timings are cached between runs, in a folder per model and GPU. The options follow ONNX Runtime's
//! documentation; they have not been tested on a GPU.

use std::path::{Path, PathBuf};

use ort::ep::{ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch, TensorRT};

use crate::{
    model::{ModelFolder, Precision},
    runtime::error::RuntimeError,
};

/// Environment variable that names the cache folder.
const CACHE_VARIABLE: &str = "RECAPTION_CACHE";
/// Bytes of memory that TensorRT may use while it times kernels.
const WORKSPACE: u64 = 8 << 30;
/// Hexadecimal digits of the model's digest in the cache folder's name.
const DIGEST_DIGITS: usize = 16;

/// TensorRT's options for a model's image encoder on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct TensorRtOptions {
    device: u32,
    side: u32,
    batch: usize,
    fp16: bool,
    cache: PathBuf,
}

impl TensorRtOptions {
    /// Returns the options for the image encoder of `model`, with at most `batch` images per call.
    pub(in crate::runtime) fn new(model: &ModelFolder, device: u32, batch: usize) -> Self {
        let digest = &model.digest[..DIGEST_DIGITS.min(model.digest.len())];
        Self {
            device,
            side: model.spec.image_size,
            batch,
            fp16: model.spec.precision == Precision::Fp16,
            cache: cache_root().join("tensorrt").join(format!("{digest}-{}", device_name(device))),
        }
    }

    /// Creates the cache folder; without it TensorRT would compile at every start.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(in crate::runtime) fn create_cache(&self) -> Result<(), RuntimeError> {
        std::fs::create_dir_all(&self.cache).map_err(|error| {
            RuntimeError::Input(format!(
                "cannot create TensorRT's cache {}: {error}; set {CACHE_VARIABLE} to a writable folder",
                self.cache.display()
            ))
        })
    }

    /// Returns the options as ONNX Runtime takes them.
    fn options(&self) -> Vec<(&'static str, String)> {
        let shape = |n: usize| format!("pixels:{n}x{0}x{0}x3", self.side);
        let yes = || "1".to_owned();
        let cache = self.cache.display().to_string();
        vec![
            ("device_id", self.device.to_string()),
            ("trt_fp16_enable", if self.fp16 { yes() } else { "0".to_owned() }),
            ("trt_max_workspace_size", WORKSPACE.to_string()),
            ("trt_profile_min_shapes", shape(1)),
            ("trt_profile_opt_shapes", shape(self.batch)),
            ("trt_profile_max_shapes", shape(self.batch)),
            ("trt_engine_cache_enable", yes()),
            ("trt_engine_cache_path", cache.clone()),
            ("trt_timing_cache_enable", yes()),
            ("trt_timing_cache_path", cache),
            // LayerNorm's sums exceed the range of half precision.
            ("trt_layer_norm_fp32_fallback", yes()),
        ]
    }

    /// Returns the provider; a failure to register it is an error.
    pub(in crate::runtime) fn provider(&self) -> ExecutionProviderDispatch {
        let options = self.options();
        options
            .iter()
            .fold(TensorRT::default(), |provider, (name, value)| provider.with_arbitrary_config(*name, value))
            .build()
            .error_on_failure()
    }
}

/// Returns the folder for files that are kept between runs: `RECAPTION_CACHE`, else `XDG_CACHE_HOME/recaption`, else
/// `~/.cache/recaption`, else a folder in the temporary directory.
pub(crate) fn cache_root() -> PathBuf {
    cache_root_from(|name| std::env::var_os(name).map(PathBuf::from))
}

/// Returns the cache folder for the given environment variables, see [`cache_root`].
fn cache_root_from(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let variable = |name| variable(name).filter(|path| path.is_absolute() || name == CACHE_VARIABLE);
    variable(CACHE_VARIABLE)
        .filter(|path| !path.as_os_str().is_empty())
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("recaption")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache").join("recaption")))
        .unwrap_or_else(|| std::env::temp_dir().join("recaption"))
}

/// Returns the GPU's model, since engines depend on it: `nvidia-h100-80gb-hbm3`; its number where the model is unknown.
fn device_name(device: u32) -> String {
    // The variable renumbers the GPUs, so that the driver's list does not apply.
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        let safe = visible.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
        return format!("gpu{device}-of-{}", safe.collect::<String>());
    }
    gpu_model(Path::new("/proc/driver/nvidia/gpus"), device).unwrap_or_else(|| format!("gpu{device}"))
}

/// Returns the model of a GPU from the driver's folder, in lower case with dashes.
fn gpu_model(gpus: &Path, device: u32) -> Option<String> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(gpus).ok()?.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let text =
        std::fs::read_to_string(folders.get(usize::try_from(device).ok()?)?.join("information")).ok()?;
    let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_lowercase();
    let safe: String = model.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    (!safe.is_empty()).then_some(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_match_the_documentation() {
        let settings = TensorRtOptions {
            device: 2,
            side: 224,
            batch: 64,
            fp16: true,
            cache: PathBuf::from("/c/tensorrt/ab-h100"),
        };
        let options = settings.options();
        let value = |name: &str| {
            options
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.as_str())
                .unwrap_or_else(|| panic!("{name}"))
        };
        assert_eq!(value("device_id"), "2");
        assert_eq!(value("trt_fp16_enable"), "1");
        assert_eq!(value("trt_profile_min_shapes"), "pixels:1x224x224x3");
        assert_eq!(value("trt_profile_opt_shapes"), "pixels:64x224x224x3");
        assert_eq!(value("trt_profile_max_shapes"), "pixels:64x224x224x3");
        for cache in ["engine", "timing"] {
            assert_eq!(value(&format!("trt_{cache}_cache_enable")), "1");
            assert_eq!(value(&format!("trt_{cache}_cache_path")), "/c/tensorrt/ab-h100");
        }
        assert_eq!(value("trt_max_workspace_size"), (8_u64 << 30).to_string());
        let fp32 = TensorRtOptions { fp16: false, ..settings };
        assert!(fp32.options().contains(&("trt_fp16_enable", "0".to_owned())));
    }

    /// Where ONNX Runtime has no TensorRT, or its libraries are missing.
    #[test]
    fn missing_tensorrt_is_an_error() {
        let environment = crate::runtime::load_library().expect("ONNX Runtime");
        if ort::util::preload_dylib("libnvinfer.so.10").is_ok() {
            return;
        }
        let cache = std::env::temp_dir();
        let settings = TensorRtOptions { device: 0, side: 32, batch: 4, fp16: true, cache };
        let builder = ort::session::Session::builder(&environment).expect("a builder");
        let error =
            builder.with_execution_providers([settings.provider()]).err().expect("no TensorRT").to_string();
        println!("{error}");
        assert!(error.to_lowercase().contains("tensorrt"), "{error}");
    }

    #[test]
    fn cache_folder_follows_the_environment() {
        let root = |set: &[(&str, &str)]| {
            cache_root_from(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)))
        };
        let all = [(CACHE_VARIABLE, "mine"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/a")];
        assert_eq!(root(&all), Path::new("mine"));
        assert_eq!(root(&all[1..]), Path::new("/xdg/recaption"));
        assert_eq!(root(&all[2..]), Path::new("/home/a/.cache/recaption"));
        // The XDG specification: relative paths are ignored.
        assert_eq!(root(&[("XDG_CACHE_HOME", "x"), ("HOME", "/h")]), Path::new("/h/.cache/recaption"));
        assert_eq!(root(&[]), std::env::temp_dir().join("recaption"));
    }

    #[test]
    fn gpu_models_name_the_cache() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for (slot, model) in [("0000:02:00.0", "NVIDIA H100 80GB HBM3"), ("0000:01:00.0", "NVIDIA A10G")] {
            let folder = dir.path().join(slot);
            std::fs::create_dir(&folder).expect("folder");
            std::fs::write(folder.join("information"), format!("Model: \t\t {model}\nIRQ: 5\n"))
                .expect("written");
        }
        assert_eq!(gpu_model(dir.path(), 0).as_deref(), Some("nvidia-a10g"));
        assert_eq!(gpu_model(dir.path(), 1).as_deref(), Some("nvidia-h100-80gb-hbm3"));
        assert_eq!(gpu_model(dir.path(), 2), None);
    }
}
