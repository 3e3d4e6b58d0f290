//! `Encoded -> Generated`: decoding strategies over one decoder, with continuous batching.
//!
//! A [`Captioner`] owns the image encoder and a [`Generator`]; the generator owns the decoder and its slots. What the
//! rows of one image read and keep is decided without a model, in `independent_rows` (greedy and sampling) and `beam`:
//! each row sends a request for its next tokens, and `token_selection` fulfils it where the logits are, on the host or on a
//! device.

mod beam;
mod capacity;
mod captioner;
mod context;
mod encoder;
mod generated;
mod generator;
mod independent_rows;
mod random;
mod settings;
mod slot;
mod slot_decoder;
mod token_selection;

pub use capacity::SlotMemory;
pub use captioner::Captioner;
pub use encoder::BatchEncoder;
pub use generated::{Admission, Generated, GeneratedTokens, Timings};
pub use generator::Generator;
pub use random::image_seed;
pub use settings::{BeamSettings, CaptionSettings, EarlyStopping, SampleSettings, Strategy};
pub use slot_decoder::SlotDecoder;
