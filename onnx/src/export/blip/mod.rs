//! The graphs of a BLIP. A captioner has `image_encoder.onnx` and `decoder.onnx`, with the inputs and outputs of a CoCa's, so that the
//! same runtime generates with both. A model that scores has `image_encoder.onnx` and `text_encoder.onnx`, with those of a CLIP's, and
//! `fusion.onnx`.

mod decoder;
mod fusion;
mod image_encoder;
mod parts;
mod scoring_text;
mod sequence;
mod text_encoder;
mod vit;

pub(super) use self::{
    decoder::build as decoder,
    fusion::build as fusion,
    image_encoder::build as image_encoder,
    parts::{features, scoring_text},
    scoring_text::ScoringText,
    sequence::Sequence,
    text_encoder::build as text_encoder,
    vit::{Vit, VitNames},
};
