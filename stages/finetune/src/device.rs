//! Where a run computes.

use burn::tensor::Device;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("run.device = `{name}`: {what}")]
pub struct DeviceError {
    name: String,
    what: String,
}

/// The device called `name` (`cpu`, `cuda`, `cuda:N`), with autodiff.
///
/// # Errors
/// An unknown name, or a device that this build was made without.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let error = |what: &str| DeviceError { name: name.to_owned(), what: what.to_owned() };
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Ok(Device::flex().autodiff()),
        ("cuda", number) => {
            let number: usize = number.parse().map_err(|_| error("expected cuda:N with a whole number N"))?;
            cuda(number).ok_or_else(|| {
                error("this build has no CUDA; build with `cargo build --release -p recaption-finetune --features cuda`")
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
