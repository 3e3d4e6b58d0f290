//! Model folders on ONNX Runtime: the library, execution providers, sessions, and one type per graph.
//!
//! A session belongs to the thread that calls it; nothing here is shared or locked, except for the library itself.

mod assignment;
mod copy_log;
mod decoder;
mod device;
mod error;
mod execution;
mod graph_log;
mod image_encoder;
mod library;
mod matcher;
mod memory;
mod options;
mod provider;
mod session;
mod text_encoder;
mod word_predictor;

pub(crate) use decoder::SlotBytes;
pub use decoder::{Decoder, Logits, RowUpdate};
pub use error::RuntimeError;
pub use execution::Execution;
pub use image_encoder::{Encoded, ImageEncoder};
pub(crate) use library::loaded_version;
pub use library::{LIBRARY_VARIABLE, load_library};
pub use matcher::{MatchImage, MatchStart, Matcher};
pub(crate) use memory::Memory;
pub use options::SessionOptions;
pub use provider::{Devices, Provider};
pub(crate) use provider::{cache_root, driver_version};
pub(crate) use session::create_in_memory;
pub use text_encoder::TextEncoder;
pub(crate) use word_predictor::WordPredictor;
