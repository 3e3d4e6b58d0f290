//! Execution providers as sessions register them.

use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProviderDispatch};

use crate::runtime::execution::Execution;

/// Returns what sessions register for `execution`: nothing for the CPU, which ONNX Runtime always has.
pub(in crate::runtime) fn execution_providers(execution: Execution) -> Vec<ExecutionProviderDispatch> {
    execution.device().map(|device| cuda_provider(device, false)).into_iter().collect()
}

/// Returns CUDA with the settings of every session on a GPU; with `cuda_graphs`, runs can be captured and replayed. A failure
/// to register it is an error, not a fallback to the CPU.
pub(in crate::runtime) fn cuda_provider(device: u32, cuda_graphs: bool) -> ExecutionProviderDispatch {
    CUDA::default()
        .with_device_id(i32::try_from(device).unwrap_or(i32::MAX))
        .with_cuda_graph(cuda_graphs)
        // Several sessions share the GPU: no arena allocates more than is requested.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        .build()
        .error_on_failure()
}
