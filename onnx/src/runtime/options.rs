//! How sessions use the machine.

use super::{execution::Execution, memory::Memory};

/// How sessions use the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads per operator, at least 1. They sleep when idle, so that other threads can use the cores.
    pub threads: usize,
    /// Execution provider and device.
    pub execution: Execution,
    /// Whether ONNX Runtime writes a profile of every graph, `recaption-<graph>_<time>.json`, to the working directory when
    /// its session ends.
    pub profile: bool,
    /// Whether a decoder's steps on a GPU may be captured once and replayed (CUDA graphs); where ONNX Runtime does not
    /// support it, they run without.
    pub cuda_graphs: bool,
    /// Whether the code path of a GPU is taken on the CPU: tensors stay with the sessions, and a graph selects tokens.
    /// Slower; checks that path on machines without a GPU.
    pub emulate_device: bool,
}

impl SessionOptions {
    /// Returns options for sessions on the CPU.
    #[must_use]
    pub const fn on_cpu(threads: usize) -> Self {
        Self { threads, execution: Execution::Cpu, profile: false, cuda_graphs: true, emulate_device: false }
    }

    /// Returns whether tensors stay in device memory between graphs.
    #[must_use]
    pub fn is_on_device(&self) -> bool {
        self.memory().is_some()
    }

    /// Returns the memory that tensors stay in between graphs; `None` is host memory, accessed as slices.
    pub(crate) fn memory(&self) -> Option<Memory> {
        match self.execution {
            Execution::Cuda { device } | Execution::TensorRt { device } => Some(Memory::Cuda(device)),
            Execution::Cpu => self.emulate_device.then_some(Memory::Cpu),
        }
    }
}

impl Default for SessionOptions {
    /// Returns options for sessions on all cores of the CPU.
    fn default() -> Self {
        Self::on_cpu(std::thread::available_parallelism().map_or(1, Into::into))
    }
}
