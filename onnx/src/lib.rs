//! Models: an open_clip checkpoint becomes ONNX graphs (`export`), and the graphs run on ONNX Runtime (`runtime`).
//!
//! The middle of the data's way: `Image -> Encoded -> Candidates`, and the text side of `Scored`. No shards, no object
//! stores, no async: a caller owns a model on a thread of its own.

// `unsafe` is denied workspace-wide; one module, `runtime::assignment`, allows it.

pub mod bundled;
pub mod caption;
pub mod caption_comparison;
pub mod checkpoint;
pub mod clean;
pub mod export;
pub mod model;
#[rustfmt::skip]
pub(crate) mod proto;
#[cfg(test)]
mod corrupt_models;
pub mod runtime;
pub mod self_test;
pub mod tokenizer;
pub mod verify;

pub use bundled::Bundled;
pub use export::{ExportError, export};
pub use model::{ModelError, ModelFolder, ModelSpec, Precision};
