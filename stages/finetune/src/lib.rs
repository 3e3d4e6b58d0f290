//! The companion stage: trains and fine-tunes the captioner. Shards -> batches -> CoCa in burn -> an open_clip directory ->
//! ONNX.
//!
//! A crate and a binary of its own: burn must never slow the main build. Names and shapes of parameters, configuration
//! and tokenizer are recaption-onnx's; reading is recaption-input's, decoding and resizing recaption-image's.

#![forbid(unsafe_code)]

pub mod batch;
pub mod config;
pub mod data;
pub mod device;
pub mod kernels;
pub mod model;
pub mod objective;
pub mod open_clip;
pub mod optim;
pub mod random;
pub mod run;
