//! Errors of loading and running models.

use std::path::PathBuf;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No usable ONNX Runtime was found.
    #[error(
        "ONNX Runtime is not available: {what}. Looked in: {places}. Run `make onnxruntime`, or set ORT_DYLIB_PATH to a libonnxruntime.so of version 1.24 or newer"
    )]
    Library {
        /// What failed for the first file found.
        what: String,
        /// The paths tried, in order.
        places: String,
    },
    /// The requested execution provider does not work on this machine.
    #[error("execution provider {provider} cannot be used: {problems}")]
    Provider {
        /// Name of the provider.
        provider: &'static str,
        /// What is missing and how to install it, as sentences.
        problems: String,
    },
    /// A graph of a model folder does not load.
    #[error("model graph {path} does not load: {source}; export the model again")]
    Session {
        /// Path of the graph.
        path: PathBuf,
        /// ONNX Runtime's error.
        source: ort::Error,
    },
    /// A graph that was built in memory does not load.
    #[error("the in-memory graph `{graph}` does not load: {source}")]
    Built {
        /// Name of the graph.
        graph: String,
        /// ONNX Runtime's error.
        source: ort::Error,
    },
    /// A graph that was built in memory could not run on a GPU: a bug of this crate.
    #[error("internal error: {0}")]
    Graph(#[from] Box<crate::export::GraphError>),
    /// ONNX Runtime inserted copies between host and device into a graph.
    #[error(
        "graph `{graph}` would copy between host and device at every run, which has made decoders read wrong values: {copies}. Export the model again with this version; if that does not help, use the ONNX Runtime that `make onnxruntime-gpu` installs"
    )]
    Copies {
        /// Name of the graph.
        graph: String,
        /// Direction and value of each copy, as ONNX Runtime names them.
        copies: String,
    },
    /// A graph failed while running.
    #[error("{graph} failed on a batch of {rows}: {source}")]
    Run {
        /// What the graph does.
        graph: &'static str,
        /// Rows of the batch.
        rows: usize,
        /// ONNX Runtime's error.
        source: ort::Error,
    },
    /// The model folder lacks what is needed.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// An argument or a setting does not fit the model.
    #[error("{0}")]
    Input(String),
}

impl RuntimeError {
    /// Returns whether memory, of the device or the host, did not suffice; a smaller batch may.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Run { source, .. } | Self::Session { source, .. } | Self::Built { source, .. } => {
                is_out_of_memory_text(&source.to_string())
            }
            Self::Library { .. }
            | Self::Provider { .. }
            | Self::Graph(_)
            | Self::Copies { .. }
            | Self::Model(_)
            | Self::Input(_) => false,
        }
    }
}

/// Returns whether an error message of ONNX Runtime means that memory ran out; there is no error code for it. The messages
/// are those of its arena, CUDA, cuBLAS, cuDNN, TensorRT, and C++.
fn is_out_of_memory_text(text: &str) -> bool {
    const MESSAGES: [&str; 8] = [
        "out of memory",
        "Failed to allocate memory",
        "Available memory of",
        "OUT_OF_MEMORY",
        "OutOfMemory",
        "STATUS_ALLOC_FAILED",
        "cudaErrorMemoryAllocation",
        "bad_alloc",
    ];
    MESSAGES.iter().any(|message| text.contains(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_errors_are_recognised() {
        const FULL: [&str; 7] = [
            "Non-zero status code returned while running MatMul node. Name:'matmul_3' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 8589934592",
            "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:342 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Available memory of 16777216 is smaller than requested bytes of 33554432",
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=node1 ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_allocator.cc ; line=48 ; expr=cudaMalloc((void**)&p, size);",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=node1 ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_stream_handle.cc ; line=35 ; expr=cublasCreate(&cublas_handle_);",
            "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
            "TensorRT EP failed to create engine: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
            "std::bad_alloc",
        ];
        const OTHER: [&str; 3] = [
            "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
            "CUDA failure 209: no kernel image is available for execution on the device",
            "Non-zero status code returned while running ScatterND node. Status Message: invalid indice found",
        ];
        let run = |text: &str| RuntimeError::Run { graph: "decoder", rows: 8, source: ort::Error::new(text) };
        let load =
            |text: &str| RuntimeError::Session { path: PathBuf::from("m"), source: ort::Error::new(text) };
        // `ort::Error` is made by the library.
        crate::runtime::load_library().expect("ONNX Runtime");
        for text in FULL {
            assert!(run(text).is_out_of_memory() && load(text).is_out_of_memory(), "{text}");
        }
        for text in OTHER {
            assert!(!run(text).is_out_of_memory() && !load(text).is_out_of_memory(), "{text}");
        }
        assert!(!RuntimeError::Input("out of memory".into()).is_out_of_memory());
    }
}
