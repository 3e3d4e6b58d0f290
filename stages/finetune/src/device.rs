//! The device that a run trains on.

use burn::tensor::Device;

/// The reason why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("run.device = `{name}`: {what}")]
pub struct DeviceError {
    name: String,
    what: String,
}

/// Name of the device that is chosen by what this build and this machine have.
pub const AUTO: &str = "auto";
/// Name of the CPU.
pub const CPU: &str = "cpu";

/// Device files of NVIDIA's driver, natively and under WSL.
const DRIVER_FILES: [&str; 2] = ["/dev/nvidia0", "/dev/dxg"];

/// Returns what `auto` is on this machine: `cuda` if the build supports it and a GPU is visible, else `cpu`.
#[must_use]
pub fn automatic() -> &'static str {
    let is_hidden = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|list| list.is_empty() || list == "-1");
    let has_driver = DRIVER_FILES.iter().any(|file| std::path::Path::new(file).exists());
    match (cfg!(feature = "cuda"), has_driver && !is_hidden) {
        (true, true) => "cuda",
        (true, false) => {
            tracing::info!("device auto: cpu, no NVIDIA GPU is visible");
            CPU
        }
        (false, true) => {
            tracing::warn!("device auto: cpu, although there is an NVIDIA GPU: {NO_CUDA}");
            CPU
        }
        (false, false) => CPU,
    }
}

/// The reason why a build cannot use a GPU, and what to do.
const NO_CUDA: &str =
    "this build has no CUDA; build with `cargo build --release -p recaption-finetune --features cuda`";

/// Opens the device called `name` (`auto`, `cpu`, `cuda`, `cuda:N`), with autodiff.
///
/// # Errors
/// Fails on an unknown name, and on a kind of device that this build does not support.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let error = |what: &str| DeviceError { name: name.to_owned(), what: what.to_owned() };
    let name = if name == AUTO { automatic() } else { name };
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Ok(Device::flex().autodiff()),
        ("cuda", number) => {
            let number: usize = number.parse().map_err(|_| error("expected cuda:N with a whole number N"))?;
            let advice = "or train on the CPU with --set run.device=cpu --set run.precision=fp32";
            cuda(number).ok_or_else(|| error(&format!("{NO_CUDA}, {advice}")))
        }
        _ => Err(error("expected `auto`, `cpu`, `cuda` or `cuda:N`")),
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Option<Device> {
    Some(Device::cuda(number).autodiff())
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Option<Device> {
    None
}
