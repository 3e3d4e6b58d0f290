//! The device of a run.

use burn::tensor::Device;

/// The reason why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("run.device = `{name}`: {what}")]
pub struct DeviceError {
    name: String,
    what: String,
}

/// Opens the device called `name` (`cpu`, `cuda`, `cuda:N`), with autodiff.
///
/// # Errors
/// Fails on an unknown name, and on a kind of device that this build does not support.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let error = |what: &str| DeviceError { name: name.to_owned(), what: what.to_owned() };
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Ok(Device::flex().autodiff()),
        ("cuda", number) => {
            let number: usize = number.parse().map_err(|_| error("expected cuda:N with a whole number N"))?;
            cuda(number).ok_or_else(|| {
                error("this build has no CUDA; build with `cargo build --release -p recaption-finetune --features cuda`, or train on the CPU: `--set run.device=cpu --set run.precision=fp32`")
            })
        }
        _ => Err(error("expected `cpu`, `cuda` or `cuda:N`")),
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
