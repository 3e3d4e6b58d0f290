//! The GPUs of a run, or its CPU: what each captioned, and which failed.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use recaption_onnx::runtime::Execution;
use serde::Serialize;

/// One device of a run.
#[derive(Debug)]
pub struct Device {
    /// Execution provider and GPU number.
    pub execution: Execution,
    /// Images whose captions it finished, rejects of its models included.
    pub images: AtomicU64,
    /// The error that it failed with.
    failure: Mutex<Option<String>>,
}

/// All devices of a run.
#[derive(Debug)]
pub struct Devices {
    all: Vec<Device>,
    started: Instant,
}

/// What a device did, for the run's record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceReport {
    /// Number of the GPU; none of the CPU.
    pub device: Option<u32>,
    /// Images whose captions it finished.
    pub images: u64,
    /// Images per second, over the whole run.
    pub images_per_second: f64,
    /// The error that it failed with, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Device {
    /// Marks the device as failed. The first error is kept.
    pub fn fail(&self, error: &str) {
        self.failure().get_or_insert_with(|| error.to_owned());
    }

    /// Returns whether the device has not failed.
    #[must_use]
    pub fn is_working(&self) -> bool {
        self.failure().is_none()
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Devices {
    /// Creates the devices of a run that starts now.
    #[must_use]
    pub fn new(executions: &[Execution]) -> Self {
        let device = |execution: &Execution| Device {
            execution: *execution,
            images: AtomicU64::new(0),
            failure: Mutex::new(None),
        };
        Self { all: executions.iter().map(device).collect(), started: Instant::now() }
    }

    /// Returns all devices, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> &[Device] {
        &self.all
    }

    /// Returns the number of devices that have not failed.
    #[must_use]
    pub fn working(&self) -> usize {
        self.all.iter().filter(|device| device.is_working()).count()
    }

    /// `gpu 0: 812.0/s, gpu 1: failed`, where there are several; empty else.
    #[must_use]
    pub fn rates(&self) -> String {
        if self.all.len() < 2 {
            return String::new();
        }
        let rates: Vec<String> = (self.report().into_iter())
            .map(|report| {
                let number = report.device.unwrap_or_default();
                match report.error {
                    Some(_) => format!("gpu {number}: failed"),
                    None => format!("gpu {number}: {:.1}/s", report.images_per_second),
                }
            })
            .collect();
        rates.join(", ")
    }

    /// Returns what each device did so far.
    #[must_use]
    pub fn report(&self) -> Vec<DeviceReport> {
        let seconds = self.started.elapsed().as_secs_f64();
        let report = |device: &Device| {
            let images = device.images.load(Relaxed);
            DeviceReport {
                device: device.execution.device(),
                images,
                images_per_second: images as f64 / seconds.max(f64::MIN_POSITIVE),
                error: device.failure().clone(),
            }
        };
        self.all.iter().map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_name_every_gpu() {
        let gpu = |device| Execution::Cuda { device };
        let devices = Devices::new(&[gpu(0), gpu(3)]);
        devices.all()[0].images.store(10, Relaxed);
        devices.all()[1].fail("CUDA failure 700");
        devices.all()[1].fail("a later error");
        let text = devices.rates();
        assert!(text.starts_with("gpu 0: ") && text.ends_with("gpu 3: failed"), "{text}");
        assert_eq!(devices.working(), 1);
        let report = devices.report();
        assert_eq!((report[0].images, report[1].error.as_deref()), (10, Some("CUDA failure 700")));
        assert_eq!(Devices::new(&[Execution::Cpu]).rates(), "", "one device needs no name");
    }
}
