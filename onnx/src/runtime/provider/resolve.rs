//! Resolves a requested provider to one that works on this machine, before any model is loaded.
//!
//! A provider that was requested by name and does not work is an error that lists what is missing and how to install it; only
//! `auto` falls back to the CPU, and logs why.

use super::{
    cuda_check,
    devices::Devices,
    problem::{Problem, join_problems},
    requested::Provider,
};
use crate::{
    model::{ModelFolder, Precision},
    runtime::{error::RuntimeError, execution::Execution, library::load_library},
};

/// Largest number of GPUs that are checked on one machine.
const MAX_DEVICES: u32 = 64;

impl Execution {
    /// Checks that `provider` works on this machine for these models; resolves `auto`.
    ///
    /// # Errors
    /// [`RuntimeError::Library`] without ONNX Runtime; [`RuntimeError::Provider`] with everything that is missing when `cuda`
    /// or `tensorrt` was requested and does not work.
    pub fn resolve(provider: Provider, device: u32, models: &[&ModelFolder]) -> Result<Self, RuntimeError> {
        load_library()?;
        let unusable = |problems: Vec<Problem>| RuntimeError::Provider {
            provider: provider.as_str(),
            problems: join_problems(&problems),
        };
        match provider {
            Provider::Cpu => Ok(Self::Cpu),
            Provider::Cuda => {
                merge_problems(cuda_check::check(device, false), check_precision(models))
                    .map_err(unusable)?;
                Ok(Self::Cuda { device })
            }
            Provider::TensorRt => {
                merge_problems(cuda_check::check(device, true), check_precision(models)).map_err(unusable)?;
                Ok(Self::TensorRt { device })
            }
            Provider::Auto => Ok(resolve_auto(device, models)),
        }
    }

    /// Resolves `provider` for one captioner on each of several GPUs, or one on the CPU, see [`Execution::resolve`].
    ///
    /// # Errors
    /// As for [`Execution::resolve`], for the first GPU that does not work. With [`Devices::All`] only one must work.
    pub fn resolve_all(
        provider: Provider,
        devices: &Devices,
        models: &[&ModelFolder],
    ) -> Result<Vec<Self>, RuntimeError> {
        let first = Self::resolve(provider, devices.first(), models)?;
        if !first.is_gpu() {
            if *devices != Devices::default() {
                tracing::warn!(%devices, "device is set, but there is no usable GPU; running on the CPU");
            }
            return Ok(vec![first]);
        }
        let others: Box<dyn Iterator<Item = u32>> = match devices {
            Devices::Numbered(numbers) => Box::new(numbers.iter().skip(1).copied()),
            Devices::All => Box::new(1..MAX_DEVICES),
        };
        let mut all = vec![first];
        for device in others {
            match (cuda_check::check(device, false), devices, first) {
                (Ok(()), _, Self::TensorRt { .. }) => all.push(Self::TensorRt { device }),
                (Ok(()), ..) => all.push(Self::Cuda { device }),
                // No GPU has this number.
                (Err(_), Devices::All, _) => break,
                (Err(problems), Devices::Numbered(_), _) => {
                    let provider = provider.as_str();
                    return Err(RuntimeError::Provider { provider, problems: join_problems(&problems) });
                }
            }
        }
        Ok(all)
    }
}

/// Merges the problems of two checks, so that all of them are reported at once.
fn merge_problems(
    one: Result<(), Vec<Problem>>,
    other: Result<(), Vec<Problem>>,
) -> Result<(), Vec<Problem>> {
    let problems: Vec<Problem> = [one, other].into_iter().filter_map(Result::err).flatten().collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Checks that the models can run on a GPU: CUDA's GroupQueryAttention supports half precision only, and int8 is quantised
/// for the CPU's kernels.
fn check_precision(models: &[&ModelFolder]) -> Result<(), Vec<Problem>> {
    let reason = |model: &ModelFolder| match model.spec.precision {
        Precision::Fp16 => None,
        Precision::Int8 => Some("int8 runs on CPUs only (ONNX Runtime's MatMulIntegerToFloat)"),
        Precision::Fp32 => model
            .spec
            .dimensions
            .decoder
            .map(|_| "captions are generated in fp16 only on a GPU (ONNX Runtime's GroupQueryAttention)"),
    };
    let unsupported = models.iter().find_map(|model| reason(model).map(|reason| (model, reason)));
    unsupported.map_or(Ok(()), |(model, reason)| {
        let missing = format!("model {} is {}, and {reason}", model.dir.display(), model.spec.precision);
        Err(vec![Problem::new(missing, "Export it again with --precision fp16.")])
    })
}

/// Resolves `auto`: CUDA if it works, else the CPU with a log line on the reason.
fn resolve_auto(device: u32, models: &[&ModelFolder]) -> Execution {
    if !cuda_check::is_cuda_build() {
        if cuda_check::driver_version().is_some() {
            tracing::warn!(
                "provider auto: using the CPU although there is an NVIDIA driver, since this ONNX Runtime is a CPU build; `make onnxruntime-gpu` installs one with CUDA"
            );
        } else {
            tracing::info!("provider auto: using the CPU, since this ONNX Runtime is a CPU build");
        }
        return Execution::Cpu;
    }
    if let Err(problems) = cuda_check::check(device, false) {
        tracing::info!(reason = join_problems(&problems), "provider auto: using the CPU");
        return Execution::Cpu;
    }
    if let Err(problems) = check_precision(models) {
        tracing::warn!(
            reason = join_problems(&problems),
            "provider auto: using the CPU although there is a GPU"
        );
        return Execution::Cpu;
    }
    tracing::info!(device, driver = cuda_check::driver_version(), "provider auto: using CUDA");
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
    fn captioners_on_a_gpu_need_fp16() {
        let (_dir, fp32) = model(Precision::Fp32);
        let (_other, fp16) = model(Precision::Fp16);
        assert_eq!(check_precision(&[&fp16]), Ok(()));
        let problems = check_precision(&[&fp16, &fp32]).expect_err("fp32");
        assert!(problems[0].missing.contains("is fp32") && problems[0].remedy.contains("--precision fp16"));
        let (_third, int8) = model(Precision::Int8);
        assert!(check_precision(&[&int8]).expect_err("int8")[0].missing.contains("int8 runs on CPUs only"));
    }

    /// For a CPU build of ONNX Runtime, which the tests run with.
    #[test]
    fn missing_cuda_is_reported_and_auto_uses_the_cpu() {
        if cuda_check::is_cuda_build() {
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
