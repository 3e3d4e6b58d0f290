//! The graphs of a BLIP captioner: `image_encoder.onnx` and `decoder.onnx`, with the inputs and outputs of a CoCa's, so that the same
//! runtime generates with both. There is no text encoder.

mod decoder;
mod image_encoder;

use super::bert::Bert;
use crate::checkpoint::BlipConfig;

pub(super) use self::{decoder::build as decoder, image_encoder::build as image_encoder};

/// Returns names and sizes of the text decoder.
fn bert(c: &BlipConfig) -> Bert<'static> {
    Bert {
        prefix: "text_decoder.bert",
        vocab_size: c.text.vocab_size,
        context_length: c.text.context_length,
        width: c.text.width,
        heads: c.text.heads,
        mlp_width: c.text.mlp_width,
        image_width: c.vision.width,
    }
}
