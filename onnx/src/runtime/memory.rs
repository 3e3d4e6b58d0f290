//! The memory that a session's tensors live in.

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

/// The memory that tensors live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Host memory, used like a device's.
    Cpu,
    /// Memory of the GPU with this number.
    Cuda(u32),
}

impl Memory {
    /// Returns ONNX Runtime's description of the memory.
    pub(crate) fn info(self) -> ort::Result<MemoryInfo<'static>> {
        let (device, number) = match self {
            Self::Cpu => (AllocationDevice::CPU, 0),
            Self::Cuda(number) => (AllocationDevice::CUDA, i32::try_from(number).unwrap_or(i32::MAX)),
        };
        MemoryInfo::new(device, number, AllocatorType::Device, MemoryType::Default)
    }

    /// Returns the name of the memory's arena in ONNX Runtime's run options.
    pub(super) fn arena(self) -> String {
        match self {
            Self::Cpu => "cpu:0".to_owned(),
            Self::Cuda(number) => format!("gpu:{number}"),
        }
    }
}
