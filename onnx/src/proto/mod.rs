//! ONNX's protobuf types. `onnx.rs` is generated (see `proto/README.md`), never edited.

#![allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]

include!("onnx.rs");
