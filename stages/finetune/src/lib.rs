//! Trains and fine-tunes captioners and scorers in burn: a CoCa, from a recipe and shards to an open_clip directory, or an ALBEF, to
//! one with its authors' names, and their ONNX export.
//!
//! ```text
//! recipe, shards -> Loader -> Batch -> Coca | Albef -> gradients -> AdamW -> checkpoints -> model directory -> ONNX -> verified
//! ```
//!
//! A crate and a binary of its own, so that burn does not slow the main build. Names and shapes of parameters, model
//! configuration and tokenizer come from `recaption_onnx`, reading from `recaption_input`, decoding and resizing from
//! `recaption_image`. [`run::train`] is the whole training; everything below it can be used alone (see `examples/`).

#![forbid(unsafe_code)]

pub mod albef_files;
pub mod batch;
pub mod config;
pub mod data;
pub mod device;
mod file;
pub mod image_encoder;
pub mod kernels;
pub mod model;
pub mod objective;
pub mod open_clip;
pub mod optim;
pub mod random;
pub mod run;
mod stored_tensor;
