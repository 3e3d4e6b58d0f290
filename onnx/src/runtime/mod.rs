//! Model folders on ONNX Runtime: the library, sessions, and one type per graph.
//!
//! A session belongs to the thread that made it a call; nothing here is shared or locked.

mod assignment;
mod copies;
mod decoder;
pub(crate) mod device;
mod image_encoder;
mod library;
mod provider;
pub(crate) mod session;
mod text_encoder;

use std::path::PathBuf;

pub use assignment::Assignment;
pub use decoder::{Decoder, Logits, RowUpdate};
pub use image_encoder::{Encoded, ImageEncoder};
pub(crate) use library::loaded_version;
pub use library::{LIBRARY_VARIABLE, load_library};
pub use provider::{Devices, Execution, Provider};
pub(crate) use provider::{cache_root, driver_version};
pub use session::SessionOptions;
pub use text_encoder::TextEncoder;

/// Why a model cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No usable ONNX Runtime.
    #[error(
        "ONNX Runtime is not available: {what}. Looked in: {places}. Get it with `make onnxruntime`, or point ORT_DYLIB_PATH at a libonnxruntime.so of version 1.24 or newer"
    )]
    Library {
        /// What went wrong at the best place.
        what: String,
        /// The places, in order.
        places: String,
    },
    /// An execution provider was asked for that this machine does not have.
    #[error("execution provider {provider} cannot be used: {problems}")]
    Provider {
        /// Its name.
        provider: &'static str,
        /// What is missing and how to get it, sentences.
        problems: String,
    },
    /// A graph does not load.
    #[error("model graph {path} does not load: {source}; export the model again")]
    Session {
        /// The graph.
        path: PathBuf,
        /// ONNX Runtime's words.
        source: ort::Error,
    },
    /// A graph that was built at run time does not load.
    #[error("the graph `{graph}`, which no model folder holds, does not load: {source}")]
    Built {
        /// Its name.
        graph: String,
        /// ONNX Runtime's words.
        source: ort::Error,
    },
    /// A graph that was built at run time could not run on a GPU: a defect of the program.
    #[error("internal error: {0}")]
    Graph(#[from] Box<crate::export::GraphError>),
    /// ONNX Runtime adds copies between host and device to a graph.
    #[error(
        "graph `{graph}` would copy between host and device at every run, and the decoder was seen to read wrong values that way: {copies}. Export the model again with this version; if that does not help, use the ONNX Runtime that `make onnxruntime-gpu` fetches"
    )]
    Copies {
        /// Its name.
        graph: String,
        /// Direction and value of each, as ONNX Runtime names them.
        copies: String,
    },
    /// A graph fails while running.
    #[error("{graph} failed on a batch of {rows}: {source}")]
    Run {
        /// Which graph.
        graph: &'static str,
        /// Rows of the batch.
        rows: usize,
        /// ONNX Runtime's words.
        source: ort::Error,
    },
    /// The model cannot do what is asked of it.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// An argument does not fit the model.
    #[error("{0}")]
    Input(String),
}

impl RuntimeError {
    /// Whether memory, the device's or the machine's, did not suffice: a smaller batch may.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Run { source, .. } | Self::Session { source, .. } | Self::Built { source, .. } => {
                tells_of_memory(&source.to_string())
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

/// Whether ONNX Runtime's words mean that memory ran out: it has no code of its own for that. The words are those of its
/// arena, of CUDA, of cuBLAS and cuDNN, of TensorRT, and of C++.
fn tells_of_memory(text: &str) -> bool {
    const WORDS: [&str; 8] = [
        "out of memory",
        "Failed to allocate memory",
        "Available memory of",
        "OUT_OF_MEMORY",
        "OutOfMemory",
        "STATUS_ALLOC_FAILED",
        "cudaErrorMemoryAllocation",
        "bad_alloc",
    ];
    WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the libraries write them.
    #[test]
    fn errors_of_memory_are_told_from_others() {
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
        load_library().expect("ONNX Runtime, which makes its errors");
        for text in FULL {
            assert!(run(text).is_out_of_memory() && load(text).is_out_of_memory(), "{text}");
        }
        for text in OTHER {
            assert!(!run(text).is_out_of_memory() && !load(text).is_out_of_memory(), "{text}");
        }
        assert!(!RuntimeError::Input("out of memory".into()).is_out_of_memory());
    }
}
