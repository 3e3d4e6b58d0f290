//! The graphs of a BLIP. A captioner has `image_encoder.onnx` and `decoder.onnx`, with the inputs and outputs of a CoCa's, so that the
//! same runtime generates with both. A model that scores has `image_encoder.onnx` and `text_encoder.onnx`, with those of a CLIP's, and
//! `fusion.onnx`.

mod decoder;
mod fusion;
mod image_encoder;
mod parts;
mod sequence;
mod text_encoder;

pub(super) use self::{
    decoder::build as decoder, fusion::build as fusion, image_encoder::build as image_encoder,
    text_encoder::build as text_encoder,
};
