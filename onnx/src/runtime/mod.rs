//! Model folders on ONNX Runtime: the library, sessions, and one type per graph.
//!
//! A session belongs to the thread that made it a call; nothing here is shared or locked.

mod decoder;
mod image_encoder;
mod library;
mod session;
mod text_encoder;

use std::path::PathBuf;

pub use decoder::{Decoder, RowUpdate};
pub use image_encoder::{Encoded, ImageEncoder};
pub use library::{LIBRARY_VARIABLE, load_library};
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
    /// A graph does not load.
    #[error("model graph {path} does not load: {source}; export the model again")]
    Session {
        /// The graph.
        path: PathBuf,
        /// ONNX Runtime's words.
        source: ort::Error,
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
        // ONNX Runtime has no code of its own for it.
        const WORDS: [&str; 5] = [
            "out of memory",
            "Failed to allocate memory",
            "bad_alloc",
            "OUT_OF_MEMORY",
            "Available memory of",
        ];
        match self {
            Self::Run { source, .. } => {
                let text = source.to_string();
                WORDS.iter().any(|word| text.contains(word))
            }
            Self::Library { .. } | Self::Session { .. } | Self::Model(_) | Self::Input(_) => false,
        }
    }
}
