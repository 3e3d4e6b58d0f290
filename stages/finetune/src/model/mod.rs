//! Models in burn. CoCa is open_clip's `CoCa.forward`, with our own poolers and decoder inputs besides the released ones;
//! ALBEF stands in [`albef`].
//!
//! Sizes and options are recaption_onnx's [`ModelConfig`](recaption_onnx::checkpoint::ModelConfig), names and shapes its table
//! of parameters, which the exporter reads too. Nothing here knows losses or training.

pub mod albef;
mod coca;
mod decoder;
mod layers;
mod parameters;
mod text;
mod vision;

pub use self::{
    coca::{Coca, Output},
    parameters::{Parameters, host},
    text::Texts,
};
