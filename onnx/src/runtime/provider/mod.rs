//! Execution providers: what was asked for becomes what the machine can do, once, before any model is loaded.
//!
//! Stands in front of every session. What was named and is not there is an error that says what is missing and how to get
//! it; only `auto` falls back to the CPU, and says why. Nothing here falls back in silence.

mod cuda;
mod devices;
pub(super) mod tensorrt;

use std::{path::PathBuf, str::FromStr};

pub use devices::Devices;

use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProviderDispatch};

use super::RuntimeError;
use crate::model::{ModelFolder, Precision};

/// Images encoded together on a CPU, at most: the encoder gains nothing from more, and slots refill sooner with fewer.
const CPU_ENCODE_BATCH: usize = 8;
/// Images encoded together on a GPU, at most: on an H100 256 images of a ViT-L/14 are encoded 1.18 times as fast as 64.
const GPU_ENCODE_BATCH: usize = 256;

/// Version of NVIDIA's driver, where there is one: `580.95.05`.
pub(crate) fn driver_version() -> Option<String> {
    cuda::driver_version()
}

/// Where files are kept between runs: `RECAPTION_CACHE`, else `XDG_CACHE_HOME/recaption`, else `~/.cache/recaption`.
pub(crate) fn cache_root() -> PathBuf {
    tensorrt::cache_root(|name| std::env::var_os(name).map(PathBuf::from))
}

/// GPUs that are looked for on one machine, at most.
const MAX_DEVICES: u32 = 64;

/// An execution provider as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// CUDA where everything for it is there, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// NVIDIA GPUs, with image encoders compiled by TensorRT.
    TensorRt,
}

impl Provider {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Auto, Self::Cpu, Self::Cuda, Self::TensorRt]
            .into_iter()
            .find(|provider| provider.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not one of auto, cpu, cuda, tensorrt"))
    }
}

/// What computes: a provider that was found to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// The CPU.
    Cpu,
    /// A GPU by CUDA.
    Cuda {
        /// Number of the GPU.
        device: u32,
    },
    /// A GPU by TensorRT where an image encoder is concerned, and CUDA for everything else.
    TensorRt {
        /// Number of the GPU.
        device: u32,
    },
}

impl Execution {
    /// Finds out what `provider` comes to on this machine, for these models.
    ///
    /// # Errors
    /// [`RuntimeError::Library`] without ONNX Runtime; [`RuntimeError::Provider`] when `cuda` or `tensorrt` was asked for
    /// and something is missing, with all that is missing.
    pub fn resolve(provider: Provider, device: u32, models: &[&ModelFolder]) -> Result<Self, RuntimeError> {
        super::load_library()?;
        let unusable = |problems: Vec<Problem>| RuntimeError::Provider {
            provider: provider.as_str(),
            problems: in_words(&problems),
        };
        match provider {
            Provider::Cpu => Ok(Self::Cpu),
            Provider::Cuda => {
                all_of(cuda::check(device, false), fits(models)).map_err(unusable)?;
                Ok(Self::Cuda { device })
            }
            Provider::TensorRt => {
                all_of(cuda::check(device, true), fits(models)).map_err(unusable)?;
                Ok(Self::TensorRt { device })
            }
            Provider::Auto => Ok(automatic(device, models)),
        }
    }

    /// As [`Execution::resolve`], for one captioner on each of several GPUs; the CPU once.
    ///
    /// # Errors
    /// As [`Execution::resolve`], for the first GPU that cannot be used. Of all GPUs those that work are taken, at least one.
    pub fn resolve_all(
        provider: Provider,
        devices: &Devices,
        models: &[&ModelFolder],
    ) -> Result<Vec<Self>, RuntimeError> {
        let first = Self::resolve(provider, devices.first(), models)?;
        if !first.is_gpu() {
            if *devices != Devices::default() {
                tracing::warn!(%devices, "model.device is set, but there is no GPU to use: the CPU computes");
            }
            return Ok(vec![first]);
        }
        let others: Box<dyn Iterator<Item = u32>> = match devices {
            Devices::Numbered(numbers) => Box::new(numbers.iter().skip(1).copied()),
            Devices::All => Box::new(1..MAX_DEVICES),
        };
        let mut all = vec![first];
        for device in others {
            match (cuda::check(device, false), devices, first) {
                (Ok(()), _, Self::TensorRt { .. }) => all.push(Self::TensorRt { device }),
                (Ok(()), ..) => all.push(Self::Cuda { device }),
                // The numbers end here.
                (Err(_), Devices::All, _) => break,
                (Err(problems), Devices::Numbered(_), _) => {
                    let provider = provider.as_str();
                    return Err(RuntimeError::Provider { provider, problems: in_words(&problems) });
                }
            }
        }
        Ok(all)
    }

    /// Name of the provider, as records and logs tell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda { .. } => "cuda",
            Self::TensorRt { .. } => "tensorrt",
        }
    }

    /// Whether a GPU computes.
    #[must_use]
    pub fn is_gpu(self) -> bool {
        self != Self::Cpu
    }

    /// Number of the GPU, if there is one.
    #[must_use]
    pub fn device(self) -> Option<u32> {
        match self {
            Self::Cpu => None,
            Self::Cuda { device } | Self::TensorRt { device } => Some(device),
        }
    }

    /// Images that are worth encoding together, at most.
    #[must_use]
    pub fn encode_batch(self) -> usize {
        if self.is_gpu() { GPU_ENCODE_BATCH } else { CPU_ENCODE_BATCH }
    }

    /// What sessions register: nothing for the CPU, which ONNX Runtime always has.
    pub(super) fn providers(self) -> Vec<ExecutionProviderDispatch> {
        self.device().map(|device| cuda_provider(device, false)).into_iter().collect()
    }
}

/// CUDA, as every session on a GPU wants it; with `cuda_graphs`, runs can be captured and replayed. Failing is an error: never
/// a silent CPU.
pub(super) fn cuda_provider(device: u32, cuda_graphs: bool) -> ExecutionProviderDispatch {
    CUDA::default()
        .with_device_id(i32::try_from(device).unwrap_or(i32::MAX))
        .with_cuda_graph(cuda_graphs)
        // Several sessions share the card: none takes twice what it needs, and what one frees another can have.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        .build()
        .error_on_failure()
}

/// Something that a provider needs and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What is missing, without a full stop.
    pub missing: String,
    /// How to get it, a sentence.
    pub remedy: String,
}

impl Problem {
    fn new(missing: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { missing: missing.into(), remedy: remedy.into() }
    }
}

/// What both find missing: nobody wants to learn of it one by one.
fn all_of(one: Result<(), Vec<Problem>>, other: Result<(), Vec<Problem>>) -> Result<(), Vec<Problem>> {
    let problems: Vec<Problem> = [one, other].into_iter().filter_map(Result::err).flatten().collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// All that is missing, and what to do, as sentences.
fn in_words(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("{}. {}", p.missing, p.remedy)).collect::<Vec<_>>().join(" ")
}

/// Whether the models can run on a GPU: CUDA's GroupQueryAttention knows half precision alone, and int8 is quantised for the
/// CPU's kernels.
fn fits(models: &[&ModelFolder]) -> Result<(), Vec<Problem>> {
    let why = |model: &ModelFolder| match model.spec.precision {
        Precision::Fp16 => None,
        Precision::Int8 => Some("int8 runs on CPUs alone (ONNX Runtime's MatMulIntegerToFloat)"),
        Precision::Fp32 => model
            .spec
            .dimensions
            .decoder
            .map(|_| "on a GPU captions are decoded in fp16 alone (ONNX Runtime's GroupQueryAttention)"),
    };
    let wrong = models.iter().find_map(|model| why(model).map(|why| (model, why)));
    wrong.map_or(Ok(()), |(model, why)| {
        let missing = format!("model {} is {}, and {why}", model.dir.display(), model.spec.precision);
        Err(vec![Problem::new(missing, "Export it again with --precision fp16.")])
    })
}

/// `auto`: everything is there, or the CPU and the reason.
fn automatic(device: u32, models: &[&ModelFolder]) -> Execution {
    if !cuda::is_in_the_library() {
        if cuda::driver_version().is_some() {
            tracing::warn!(
                "provider auto: cpu, although there is an NVIDIA driver: this ONNX Runtime is a CPU build; `make onnxruntime-gpu` fetches one with CUDA"
            );
        } else {
            tracing::info!("provider auto: cpu, this ONNX Runtime is a CPU build");
        }
        return Execution::Cpu;
    }
    if let Err(problems) = cuda::check(device, false) {
        tracing::info!(reason = in_words(&problems), "provider auto: cpu");
        return Execution::Cpu;
    }
    if let Err(problems) = fits(models) {
        tracing::warn!(reason = in_words(&problems), "provider auto: cpu, although there is a GPU");
        return Execution::Cpu;
    }
    tracing::info!(device, driver = cuda::driver_version(), "provider auto: cuda");
    Execution::Cuda { device }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundled, export};

    fn model(precision: Precision) -> (tempfile::TempDir, ModelFolder) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let checkpoint = dir.path().join("checkpoint");
        Bundled::Base.write_checkpoint(&checkpoint).expect("written");
        let model = export(&checkpoint, &dir.path().join("model"), precision).expect("export");
        (dir, model)
    }

    #[test]
    fn names_are_those_of_the_configuration() {
        for provider in [Provider::Auto, Provider::Cpu, Provider::Cuda, Provider::TensorRt] {
            assert_eq!(provider.as_str().parse(), Ok(provider));
        }
        assert!("gpu".parse::<Provider>().expect_err("unknown").contains("tensorrt"));
    }

    #[test]
    fn captioners_on_a_gpu_must_be_fp16() {
        let (_dir, fp32) = model(Precision::Fp32);
        let (_other, fp16) = model(Precision::Fp16);
        assert_eq!(fits(&[&fp16]), Ok(()));
        let problems = fits(&[&fp16, &fp32]).expect_err("fp32");
        assert!(problems[0].missing.contains("is fp32") && problems[0].remedy.contains("--precision fp16"));
        let (_third, int8) = model(Precision::Int8);
        assert!(fits(&[&int8]).expect_err("int8")[0].missing.contains("int8 runs on CPUs alone"));
    }

    /// On a CPU build of ONNX Runtime, which is what the tests run with.
    #[test]
    fn what_is_missing_is_said_and_auto_takes_the_cpu() {
        if cuda::is_in_the_library() {
            return;
        }
        let (_dir, fp16) = model(Precision::Fp16);
        let (_other, fp32) = model(Precision::Fp32);
        let both = Execution::resolve(Provider::Cuda, 0, &[&fp32]).expect_err("two reasons").to_string();
        assert!(both.contains("CPU build") && both.contains("is fp32"), "{both}");
        assert_eq!(Execution::resolve(Provider::Auto, 0, &[&fp16]).expect("the CPU"), Execution::Cpu);
        assert_eq!(Execution::resolve(Provider::Cpu, 3, &[&fp16]).expect("the CPU"), Execution::Cpu);
        for (provider, make) in [
            (Provider::Cuda, "`make onnxruntime-gpu`"),
            (Provider::TensorRt, "`make onnxruntime-gpu TENSORRT=1`"),
        ] {
            let error = Execution::resolve(provider, 0, &[&fp16]).expect_err("a CPU build").to_string();
            for word in [provider.as_str(), "CPU build", make, "ORT_DYLIB_PATH", "libonnxruntime"] {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
    }
}
